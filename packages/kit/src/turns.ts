import { assert } from "./assert.ts";

/** Lets so many act at once; the others wait, in the order they came. */
export class Turns {
  readonly #max: number;
  readonly #waiting: (() => void)[] = [];
  #acting = 0;

  constructor(max: number) {
    assert(max >= 1, "at least one may act");
    this.#max = max;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** Acts when it is the caller's turn. Rejects with the signal's reason when it aborts before that. */
  async take<Result>(act: () => Promise<Result>, signal?: AbortSignal): Promise<Result> {
    await this.enter(signal);
    try {
      return await act();
    } finally {
      this.leave();
    }
  }

  /** Resolves when it is the caller's turn; the caller then must `leave`. Rejects with the signal's reason, and holds nothing then. */
  async enter(signal?: AbortSignal): Promise<void> {
    signal?.throwIfAborted();
    if (this.#acting < this.#max) {
      this.#acting += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const turn = () => {
        signal?.removeEventListener("abort", onAbort);
        resolve(); // the place of who left is now ours: #acting stays
      };
      const onAbort = () => {
        const index = this.#waiting.indexOf(turn);
        if (index >= 0) this.#waiting.splice(index, 1);
        reject(signal?.reason);
      };
      this.#waiting.push(turn);
      signal?.addEventListener("abort", onAbort, { once: true });
    });
  }

  leave(): void {
    assert(this.#acting > 0, "who leaves has entered");
    const next = this.#waiting.shift();
    if (next === undefined) this.#acting -= 1;
    else next();
  }
}
