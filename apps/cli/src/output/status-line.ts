import picocolors from "picocolors";

import type { Colors, CommandContext } from "../context.ts";
import { canAnimate, hasColors, type OutputStream } from "../io.ts";

interface Spinner {
  text: string;
  start(): Spinner;
  stop(): Spinner;
  clear(): Spinner;
  render(): Spinner;
}

/** Lines on standard error, and on a terminal below them one that tells what goes on. Elsewhere only the lines. */
export class StatusLine implements Disposable {
  readonly colors: Colors;
  readonly #stream: OutputStream;
  #spinner: Spinner | undefined;

  private constructor(context: CommandContext) {
    this.#stream = context.io.stderr;
    this.colors = picocolors.createColors(hasColors(context.io.stderr, context.io.environment));
  }

  static async open(context: CommandContext, text: string): Promise<StatusLine> {
    const line = new StatusLine(context);
    if (context.isJson || !canAnimate(line.#stream, context.io.environment)) return line;
    const { default: ora } = await import("ora");
    line.#spinner = ora({ text, stream: line.#stream as NodeJS.WriteStream, discardStdin: false }).start();
    return line;
  }

  update(text: string): void {
    if (this.#spinner !== undefined) this.#spinner.text = text;
  }

  print(line: string): void {
    this.#spinner?.clear();
    this.#stream.write(`${line}\n`);
    this.#spinner?.render();
  }

  [Symbol.dispose](): void {
    this.#spinner?.stop();
  }
}
