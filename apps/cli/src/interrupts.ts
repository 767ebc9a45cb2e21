import type { EventEmitter } from "node:events";

import { InterruptedError } from "./failure.ts";

const watched = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
export type Interrupt = (typeof watched)[number];

/**
 * What signals mean while a command runs. By default the first one aborts `signal`, so that whatever waits ends and
 * cleans up; a second one forces the end. A command that forwards signals takes them over for a while.
 */
export class Interrupts implements Disposable {
  readonly #signals: EventEmitter;
  readonly #abort = new AbortController();
  readonly #force: (signal: Interrupt) => void;
  readonly #listeners: { readonly name: Interrupt; readonly listener: () => void }[] = [];
  #taken: ((signal: Interrupt) => void) | undefined;

  constructor(signals: EventEmitter, force: (signal: Interrupt) => void) {
    this.#signals = signals;
    this.#force = force;
    for (const name of watched) {
      const listener = () => this.#handle(name);
      signals.on(name, listener);
      this.#listeners.push({ name, listener });
    }
  }

  /** Aborted with an `InterruptedError`. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Sends signals to `handler` until the result is disposed of. */
  take(handler: (signal: Interrupt) => void): Disposable {
    this.#taken = handler;
    return {
      [Symbol.dispose]: () => {
        if (this.#taken === handler) this.#taken = undefined;
      },
    };
  }

  #handle(name: Interrupt): void {
    if (this.#taken !== undefined) this.#taken(name);
    else if (this.#abort.signal.aborted) this.#force(name);
    else this.#abort.abort(new InterruptedError(name));
  }

  [Symbol.dispose](): void {
    for (const { name, listener } of this.#listeners) this.#signals.off(name, listener);
  }
}
