import { nap } from "./deadline.ts";
import type { Logger } from "./logger.ts";

/** First wait after a failure in `ms`; doubles with each further one. */
const backoffMsMin = 250;
/** Longest wait between two tries in `ms`: a service that fails for long still notices recovery within half a minute. */
const backoffMsMax = 30_000;

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
  #backoffMs = backoffMsMin;
  #wake: AbortController = new AbortController();

  constructor(name: string, log: Logger, signal: AbortSignal) {
    this.#name = name;
    this.#log = log;
    this.#signal = signal;
  }

  /** Does rounds, with `intervalMs` between two of them when nobody pokes, until the signal aborts. */
  async every(intervalMs: number, round: () => Promise<unknown>): Promise<void> {
    while (this.shouldRun()) {
      try {
        await round();
        this.resetBackoff();
        await this.sleep(intervalMs);
      } catch (error) {
        await this.backoff(error);
      }
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
    const level = this.#backoffMs < 2_000 ? "info" : this.#backoffMs < backoffMsMax ? "warn" : "error";
    this.#log[level]({ err: error, service: this.#name, backoffMs: this.#backoffMs }, "service failed, will retry");
    await this.sleep(this.#backoffMs);
    this.#backoffMs = Math.min(this.#backoffMs * 2, backoffMsMax);
  }
}
