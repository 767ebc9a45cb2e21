/** Waits that double from `first` to `max` `ms` as long as something fails. */
export class Backoff {
  readonly #limits: { readonly first: number; readonly max: number };
  #nextMs: number;

  constructor(limits: { readonly first: number; readonly max: number }) {
    this.#limits = limits;
    this.#nextMs = limits.first;
  }

  /** How long to wait now; the next wait is twice as long. */
  next(): number {
    const waitMs = this.#nextMs;
    this.#nextMs = Math.min(waitMs * 2, this.#limits.max);
    return waitMs;
  }

  reset(): void {
    this.#nextMs = this.#limits.first;
  }
}
