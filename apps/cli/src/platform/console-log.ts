import type { Writable } from "node:stream";

import type { Colors } from "../context.ts";
import { printable } from "../output/printable.ts";

/** Members of a log line that are shown elsewhere in it or not at all. */
const shownElsewhere = new Set(["level", "time", "msg", "err", "name", "pid", "hostname"]);

/** Log lines for people who watch `roost up` in a terminal: time, level, message, context. */
export class ConsoleLog {
  readonly #stream: Writable;
  readonly #colors: Colors;

  constructor(stream: Writable, colors: Colors) {
    this.#stream = stream;
    this.#colors = colors;
  }

  write(line: string): void {
    this.#stream.write(`${this.#format(line)}\n`);
  }

  #format(line: string): string {
    let entry: Record<string, unknown>;
    try {
      entry = JSON.parse(line) as Record<string, unknown>;
    } catch {
      return printable(line.trimEnd());
    }
    const time = textOf(entry["time"]).slice(11, 19);
    const level = textOf(entry["level"]);
    const rest = Object.entries(entry).filter(([key]) => !shownElsewhere.has(key));
    const context = rest.map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`).join(" ");
    const error = entry["err"] as { message?: unknown } | undefined;
    const failure = error === undefined ? "" : `: ${textOf(error.message)}`;
    const message = printable(`${textOf(entry["msg"])}${failure}`);
    return `${this.#colors.dim(time)} ${this.#paint(level)} ${message}${context === "" ? "" : ` ${this.#colors.dim(printable(context))}`}`;
  }

  #paint(level: string): string {
    const padded = level.padEnd(5);
    if (level === "error" || level === "fatal") return this.#colors.red(padded);
    if (level === "warn") return this.#colors.yellow(padded);
    return level === "debug" ? this.#colors.dim(padded) : this.#colors.green(padded);
  }
}

function textOf(value: unknown): string {
  return typeof value === "string" ? value : value === undefined ? "" : JSON.stringify(value);
}
