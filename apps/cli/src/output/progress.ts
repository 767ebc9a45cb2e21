import { formatBytes } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { canAnimate } from "../io.ts";

/** What takes longer than this in `ms` shows that it is under way. */
const quietMs = 1_000;
/** Time between two updates of a byte counter in `ms`. */
const updateMs = 100;

interface Spinner {
  text: string;
  start(): unknown;
  stop(): unknown;
}

/** A line on standard error about work in progress; appears only on a terminal and after a second. */
export class Progress implements Disposable {
  #text: string;
  #spinner: Spinner | undefined;
  #isOver = false;
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(context: CommandContext, text: string) {
    this.#text = text;
    const stream = context.io.stderr;
    if (context.isJson || !canAnimate(stream, context.io.environment)) return;
    this.#timer = setTimeout(() => {
      void import("ora").then(({ default: ora }) => {
        if (this.#isOver) return;
        this.#spinner = ora({ text: this.#text, stream: stream as NodeJS.WriteStream, discardStdin: false });
        this.#spinner.start();
      });
    }, quietMs);
  }

  update(text: string): void {
    this.#text = text;
    if (this.#spinner !== undefined) this.#spinner.text = text;
  }

  [Symbol.dispose](): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
    this.#spinner?.stop();
  }
}

export async function withProgress<T>(context: CommandContext, text: string, work: (progress: Progress) => Promise<T>): Promise<T> {
  using progress = new Progress(context, text);
  return await work(progress);
}

/** Passes bytes through and shows how many went by. */
export async function* countBytes(
  source: AsyncIterable<Buffer>,
  progress: Progress,
  text: string,
  total: number | undefined,
): AsyncGenerator<Buffer> {
  let bytes = 0;
  const started = performance.now();
  let shown = 0;
  for await (const chunk of source) {
    bytes += chunk.length;
    const now = performance.now();
    if (now - shown > updateMs) {
      shown = now;
      const perSecond = formatBytes(bytes / Math.max(0.001, (now - started) / 1000));
      const share = total === undefined || total === 0 ? "" : ` of ${formatBytes(total)} (${Math.trunc((bytes / total) * 100)} %)`;
      progress.update(`${text}: ${formatBytes(bytes)}${share}, ${perSecond}/s`);
    }
    yield chunk;
  }
}
