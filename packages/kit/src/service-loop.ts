import { nap } from "./deadline.ts";
import type { Logger } from "./logger.ts";

/** First wait after a failure in `ms`; doubles with each further one. */
const backoffMsMin = 250;
/** Longest wait between two tries in `ms`, unless a service says another: one that fails for long still notices recovery within half a minute. */
const backoffMsMaxDefault = 30_000;
/** A wait after a failure is this much shorter or longer, at random: what failed together does not come back together. */
const jitter = 0.2;

/** One round of a loop of this process. */
export interface LoopRound {
  /** The loop's name: as many as there are kinds of loops */
  readonly loop: string;
  readonly isOk: boolean;
  readonly durationMs: number;
}

const observers = new Set<(round: LoopRound) => void>();

/** Is told of every round of every loop of this process, for metrics, until the function that is returned is called. */
export function observeRounds(observer: (round: LoopRound) => void): () => void {
  observers.add(observer);
  return () => observers.delete(observer);
}

/**
 * The verbs every long-lived loop shares: sleep that an abort ends, and backoff that gets louder as it gets longer.
 *
 *     const loop = new ServiceLoop("heartbeat", log, signal);
 *     await loop.every(intervalMs, beat);
 */
export class ServiceLoop {
  readonly #name: string;
  readonly #log: Logger;
  readonly #signal: AbortSignal;
  readonly #backoffMsMax: number;
  #backoffMs = backoffMsMin;
  #wake: AbortController = new AbortController();

  constructor(name: string, log: Logger, signal: AbortSignal, options: { readonly backoffMsMax?: number } = {}) {
    this.#name = name;
    this.#log = log;
    this.#signal = signal;
    this.#backoffMsMax = options.backoffMsMax ?? backoffMsMaxDefault;
  }

  /** Does rounds, with `intervalMs` between two of them when nobody pokes, until the signal aborts. */
  async every(intervalMs: number, round: () => Promise<unknown>): Promise<void> {
    while (this.shouldRun()) {
      const began = performance.now();
      const tell = (isOk: boolean) => {
        for (const observe of observers) observe({ loop: this.#name, isOk, durationMs: performance.now() - began });
      };
      try {
        await round();
        tell(true);
      } catch (error) {
        tell(false);
        await this.backoff(error);
        continue;
      }
      this.resetBackoff();
      await this.sleep(intervalMs);
    }
  }

  shouldRun(): boolean {
    return !this.#signal.aborted;
  }

  /** Ends the present or next sleep early: somebody knows there is work. */
  poke(): void {
    this.#wake.abort();
  }

  async sleep(ms: number): Promise<void> {
    await nap(ms, AbortSignal.any([this.#signal, this.#wake.signal]));
    if (this.#wake.signal.aborted) this.#wake = new AbortController();
  }

  resetBackoff(): void {
    this.#backoffMs = backoffMsMin;
  }

  async backoff(error: unknown): Promise<void> {
    if (!this.shouldRun()) return;
    const level = this.#backoffMs < 2_000 ? "info" : this.#backoffMs < this.#backoffMsMax ? "warn" : "error";
    this.#log[level]({ err: error, service: this.#name, backoffMs: this.#backoffMs }, "service failed, will retry");
    await this.sleep(this.#backoffMs * (1 - jitter + 2 * jitter * Math.random()));
    this.#backoffMs = Math.min(this.#backoffMs * 2, this.#backoffMsMax);
  }
}
