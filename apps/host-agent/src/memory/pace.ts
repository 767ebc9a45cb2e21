import { setImmediate as nextTurn } from "node:timers/promises";

/** Longest time in `ms` that work on memory holds up everything else in this process */
const sliceMs = 5;

/** Lets other work have its turn in between: `await pace.turn()` after each piece that takes a millisecond or so. */
export class Pace {
  readonly #signal: AbortSignal | undefined;
  #sliceEndMs = performance.now() + sliceMs;

  constructor(signal?: AbortSignal) {
    this.#signal = signal;
  }

  /** Whether others have waited long enough. For loops too tight to await each turn. */
  get isDue(): boolean {
    return performance.now() >= this.#sliceEndMs;
  }

  /** Also throws the signal's reason once it has aborted. */
  async turn(): Promise<void> {
    this.#signal?.throwIfAborted();
    if (!this.isDue) return;
    await nextTurn();
    this.#sliceEndMs = performance.now() + sliceMs;
    this.#signal?.throwIfAborted();
  }
}
