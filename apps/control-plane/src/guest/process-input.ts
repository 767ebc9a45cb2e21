import { processErrors, fromGuestError } from "./guest-errors.ts";
import type { Guest } from "./guest.ts";
import { selectorOf } from "./process-selector.ts";

/**
 * Bytes into a running process, over one `StreamInput` call that lives as long as there is input. `write` resolves when
 * the piece was taken over by the connection, which is held back by a process that does not read.
 */
export class ProcessInput {
  readonly #guest: Guest;
  readonly #pid: number;
  readonly #kind: "stdin" | "pty";
  readonly #abort = new AbortController();
  #call: Promise<unknown> | undefined;
  #failure: unknown;
  #next: { readonly data: Uint8Array | undefined; readonly taken: () => void } | undefined;
  #wake: (() => void) | undefined;
  #hasEnded = false;

  constructor(guest: Guest, pid: number, kind: "stdin" | "pty") {
    this.#guest = guest;
    this.#pid = pid;
    this.#kind = kind;
  }

  /** One at a time: await each. Rejects when the process has ended or takes no input. */
  async write(data: Uint8Array): Promise<void> {
    if (data.length > 0) await this.#offer(data);
  }

  /** Ends the input; a pipe is then at its end for the process. Resolves when everything before was delivered. */
  async end(): Promise<void> {
    if (this.#call !== undefined) {
      await this.#offer(undefined);
      await this.#call;
      this.#throwFailure();
    }
    if (this.#kind === "pty") return;
    await this.#guest.call((options) => this.#guest.processes.closeStdin({ process: selectorOf({ pid: this.#pid }) }, options), {
      errors: processErrors,
    });
  }

  /** Drops the connection; the process's input stays as it is. */
  close(): void {
    this.#abort.abort(new Error("input closed"));
    this.#wake?.();
  }

  async #offer(data: Uint8Array | undefined): Promise<void> {
    this.#open();
    this.#throwFailure();
    await new Promise<void>((taken) => {
      this.#next = { data, taken };
      this.#wake?.();
    });
    this.#throwFailure();
  }

  #throwFailure(): void {
    if (this.#failure !== undefined) throw fromGuestError(this.#failure, processErrors);
  }

  #open(): void {
    this.#call ??= this.#guest.processes.streamInput(this.#messages(), { headers: this.#guest.headers(), signal: this.#abort.signal }).then(
      () => this.#settle(undefined),
      (error: unknown) => this.#settle(error),
    );
  }

  /** The call is over: nobody will take what is still offered. */
  #settle(failure: unknown): void {
    this.#failure = failure ?? (this.#hasEnded ? undefined : new Error("the guest agent ended the input early"));
    this.#next?.taken();
    this.#next = undefined;
  }

  async *#messages() {
    yield { event: { case: "start" as const, value: { process: selectorOf({ pid: this.#pid }) } } };
    for (;;) {
      if (this.#next === undefined) {
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
        this.#wake = undefined;
      }
      if (this.#abort.signal.aborted) return;
      const next = this.#next;
      if (next === undefined) continue;
      this.#next = undefined;
      if (next.data === undefined) {
        this.#hasEnded = true;
        return next.taken();
      }
      yield { event: { case: "data" as const, value: { input: { input: { case: this.#kind, value: next.data } } } } };
      next.taken(); // the connection asks for more only when it has taken this one
    }
  }
}
