/** What a fake VMM can be told to refuse or never to finish. */
export type FakeOperation = "start" | "restore" | "stop" | "continue" | "save" | "push" | "flatten" | "layers";

interface MeetOptions {
  /** What a refused operation rejects with */
  readonly refused: () => Error;
  /** Ends an operation that hangs, with the signal's reason */
  readonly signal?: AbortSignal;
  /** Ends an operation that hangs, with an error: its VM has ended */
  readonly ended?: Promise<unknown>;
}

/** The faults a test has ordered, used up one operation each, in order. */
export class FakeFaults {
  readonly #ordered = new Map<FakeOperation, ("fail" | "hang")[]>();
  readonly #hanging = new Map<FakeOperation, number>();

  order(operation: FakeOperation, fault: "fail" | "hang"): void {
    this.#ordered.set(operation, [...(this.#ordered.get(operation) ?? []), fault]);
  }

  /** Operations of this kind that hang right now. */
  hanging(operation: FakeOperation): number {
    return this.#hanging.get(operation) ?? 0;
  }

  /** An operation begins: does nothing, rejects or hangs, as ordered. */
  async meet(operation: FakeOperation, options: MeetOptions): Promise<void> {
    const fault = this.#ordered.get(operation)?.shift();
    if (fault === "fail") throw options.refused();
    if (fault === "hang") await this.#hang(operation, options);
  }

  async #hang(operation: FakeOperation, options: MeetOptions): Promise<never> {
    this.#hanging.set(operation, this.hanging(operation) + 1);
    try {
      return await new Promise<never>((_resolve, reject) => {
        options.signal?.addEventListener("abort", () => reject(options.signal?.reason as Error), { once: true });
        void options.ended?.then(() => reject(new Error(`the fake VM ended during ${operation}`)));
      });
    } finally {
      this.#hanging.set(operation, this.hanging(operation) - 1);
    }
  }
}
