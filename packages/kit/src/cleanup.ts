interface Step {
  readonly what: string;
  readonly undo: () => unknown;
}

/**
 * What was acquired so far, to be released in reverse order unless it is handed over.
 *
 * Release never stops at the first failure and never hides one: all steps run, then one error tells all that failed.
 *
 *     await using cleanup = new Cleanup();
 *     const slot = await slots.acquire(id);
 *     cleanup.defer("release slot", () => slots.release(slot));
 *     return cleanup.handOver(slot); // success: nothing is released here
 */
export class Cleanup implements AsyncDisposable {
  readonly #steps: Step[] = [];

  defer(what: string, undo: () => unknown): void {
    this.#steps.push({ what, undo });
  }

  /** Forgets the steps: whoever gets `value` now owns what they would have released. */
  handOver<T>(value: T): T {
    this.#steps.length = 0;
    return value;
  }

  /** Releases everything now. Calling it again does nothing. */
  async run(): Promise<void> {
    const failures: Error[] = [];
    for (let step = this.#steps.pop(); step !== undefined; step = this.#steps.pop()) {
      try {
        await step.undo();
      } catch (error) {
        failures.push(new Error(`could not ${step.what}`, { cause: error }));
      }
    }
    if (failures.length === 1) throw failures[0];
    if (failures.length > 1) throw new AggregateError(failures, failures.map((failure) => failure.message).join("; "));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.run();
  }
}
