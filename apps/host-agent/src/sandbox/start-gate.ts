import { assert } from "@roost/kit";

/**
 * How many sandboxes may start at the same time. A boot keeps a CPU busy for seconds: when dozens share two cores all of them are
 * late, and the last ones miss their deadline; in turn, the first ones are ready soon. First come, first served.
 */
export class StartGate {
  readonly #placesMax: number;
  readonly #waiting: (() => void)[] = [];
  #taken = 0;

  constructor(placesMax: number) {
    assert(placesMax >= 1, "at least one may start");
    this.#placesMax = placesMax;
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  /** Resolves when it is the caller's turn; the caller then must `leave`. Rejects with the signal's reason, and holds nothing then. */
  async enter(signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    if (this.#taken < this.#placesMax) {
      this.#taken += 1;
      return;
    }
    await new Promise<void>((resolve, reject) => {
      const turn = () => {
        signal.removeEventListener("abort", onAbort);
        resolve(); // the place of who left is now ours: #taken stays
      };
      const onAbort = () => {
        const index = this.#waiting.indexOf(turn);
        if (index >= 0) this.#waiting.splice(index, 1);
        reject(signal.reason);
      };
      this.#waiting.push(turn);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  leave(): void {
    assert(this.#taken > 0, "who leaves has entered");
    const next = this.#waiting.shift();
    if (next === undefined) this.#taken -= 1;
    else next();
  }
}

/** Under emulation a boot is all CPU; with hardware virtualization much of it is waiting. */
export function startsAtOnce(accelerator: "kvm" | "tcg", cpuCount: number): number {
  return Math.max(2, cpuCount * (accelerator === "kvm" ? 4 : 2));
}
