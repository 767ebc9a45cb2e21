import type { Logger } from "@roost/kit";

/** Jobs that wait at most; what is beyond is dropped and will be asked for again. */
const waitingMax = 64;

/** One job after the other, each named, none twice at the same time. A job that fails is logged. */
export class BackgroundJobs {
  readonly #log: Logger;
  readonly #jobs = new Map<string, Promise<void>>();
  readonly #abort = new AbortController();
  #last: Promise<void> = Promise.resolve();

  constructor(log: Logger) {
    this.#log = log;
  }

  has(name: string): boolean {
    return this.#jobs.has(name);
  }

  /** Resolves when the job of this name has ended, well or not. */
  async run(name: string, work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const present = this.#jobs.get(name);
    if (present !== undefined) return present;
    if (this.#jobs.size >= waitingMax || this.#abort.signal.aborted) return;
    const { signal } = this.#abort;
    const job = this.#last
      .then(() => (signal.aborted ? undefined : work(signal)))
      .catch((error: unknown) => {
        if (!signal.aborted) this.#log.warn({ err: error, job: name }, "a background job failed");
      })
      .finally(() => this.#jobs.delete(name));
    this.#jobs.set(name, job);
    this.#last = job;
    return job;
  }

  /** Ends what is under way; nothing begins any more. */
  async close(): Promise<void> {
    this.#abort.abort(new Error("the host agent is shutting down"));
    await this.#last;
  }
}
