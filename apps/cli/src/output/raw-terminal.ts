import type { EventEmitter } from "node:events";

import type { InputStream, OutputStream } from "../io.ts";

/** Leaves the alternate screen and turns off mouse reports, bracketed paste and colours; shows the cursor. */
const resetSequences = "\u001b[?1049l\u001b[?1000l\u001b[?1002l\u001b[?1003l\u001b[?1006l\u001b[?2004l\u001b[?25h\u001b[0m";

/** Our terminal in raw mode, given back in order whatever happens, also when the process ends by an error. */
export class RawTerminal implements Disposable {
  readonly #stdin: InputStream;
  readonly #stdout: OutputStream;
  readonly #signals: EventEmitter;
  #isRaw = true;

  constructor(stdin: InputStream, stdout: OutputStream, signals: EventEmitter) {
    this.#stdin = stdin;
    this.#stdout = stdout;
    this.#signals = signals;
    stdin.setRawMode?.(true);
    signals.on("exit", this.#restore);
  }

  /** For leaving a program in the middle: it cannot put the screen in order itself any more. */
  leave(): void {
    if (!this.#isRaw) return;
    this.#restore();
    if (!this.#stdout.destroyed) this.#stdout.write(resetSequences);
  }

  readonly #restore = (): void => {
    if (!this.#isRaw) return;
    this.#isRaw = false;
    this.#stdin.setRawMode?.(false);
    this.#stdin.pause();
    this.#signals.off("exit", this.#restore);
  };

  [Symbol.dispose](): void {
    this.#restore();
  }
}
