import { nap, second } from "@roost/kit";

/** Time in `ms` for which who finds no room waits, counted anew whenever somebody leaves: in a burst of short-lived sandboxes that is each moment, and who finds everything full is soon told */
const waitMsDefault = 5 * second;
/** Longest such wait in `ms`, however many leave: callers give up after a minute, and a start takes its time, too */
const waitMsMax = 40 * second;
/** Time between two looks in `ms` while nobody here says that somebody left: other control planes need not say so */
const lookMs = 500;
/** Who may wait at once; above it one is refused at once */
const waitersMax = 1_000;

/** Those who found no room and look again when somebody leaves: first come, first served. */
export class Room {
  readonly #waitMs: number;
  readonly #waiting: { readonly wake: AbortController; giveUpMs: number; readonly endMs: number }[] = [];

  constructor(waitMs = waitMsDefault) {
    this.#waitMs = waitMs;
  }

  /** Somebody left. */
  made(): void {
    const now = performance.now();
    for (const waiter of this.#waiting) waiter.giveUpMs = Math.min(now + this.#waitMs, waiter.endMs);
    this.#waiting[0]?.wake.abort();
  }

  /**
   * Tries until it answers something else than undefined, or patience ends: undefined then. Who comes while others wait, waits behind them.
   */
  async until<Result>(attempt: () => Promise<Result | undefined>, signal?: AbortSignal): Promise<Result | undefined> {
    const mayWait = this.#waitMs > 0 && this.#waiting.length < waitersMax;
    if (!mayWait || this.#waiting.length === 0) {
      const found = await attempt();
      if (found !== undefined || !mayWait) return found;
    }
    const start = performance.now();
    const waiter = { wake: new AbortController(), giveUpMs: start + this.#waitMs, endMs: start + waitMsMax };
    this.#waiting.push(waiter);
    try {
      for (;;) {
        signal?.throwIfAborted();
        const isLast = performance.now() >= waiter.giveUpMs;
        const isFirst = this.#waiting[0] === waiter;
        const found = isFirst || isLast ? await attempt() : undefined;
        if (found !== undefined || isLast) return found;
        const wait = Math.max(1, Math.min(lookMs, waiter.giveUpMs - performance.now()));
        await nap(wait, signal === undefined ? waiter.wake.signal : AbortSignal.any([signal, waiter.wake.signal]));
        if (waiter.wake.signal.aborted) waiter.wake = new AbortController();
      }
    } finally {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      this.#waiting[0]?.wake.abort(); // there may be room for the next as well
    }
  }
}
