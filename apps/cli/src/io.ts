import type { EventEmitter } from "node:events";
import type { Readable, Writable } from "node:stream";

export interface InputStream extends Readable {
  readonly isTTY?: boolean;
  setRawMode?(isRaw: boolean): unknown;
}

export interface OutputStream extends Writable {
  readonly isTTY?: boolean;
  readonly columns?: number;
  readonly rows?: number;
}

/** Everything a command may touch of the process it runs in, so that tests can run commands in their own. */
export interface Io {
  readonly stdin: InputStream;
  readonly stdout: OutputStream;
  readonly stderr: OutputStream;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** Emits `SIGINT`, `SIGTERM`, `SIGHUP` and `exit` like `process`. */
  readonly signals: EventEmitter;
  /** Where relative local paths start. */
  readonly cwd: string;
}

export function processIo(): Io {
  const { stdin, stdout, stderr, env } = process;
  return { stdin, stdout, stderr, environment: env, signals: process, cwd: process.cwd() };
}

/** NO_COLOR (no-color.org) wins over FORCE_COLOR, which wins over what the stream is. */
export function hasColors(stream: OutputStream, environment: Io["environment"]): boolean {
  if ((environment["NO_COLOR"] ?? "") !== "") return false;
  const force = environment["FORCE_COLOR"];
  if (force !== undefined && force !== "") return force !== "0" && force !== "false";
  return stream.isTTY === true && environment["TERM"] !== "dumb";
}

/** Whether lines can be drawn over each other there: on a terminal, and one whose width is known. A width of 0, as pseudo-terminals have that nobody told theirs, makes the spinner's library clear lines without end. */
export function canAnimate({ isTTY, columns }: OutputStream, environment: Io["environment"]): boolean {
  return isTTY === true && columns !== undefined && columns > 0 && environment["TERM"] !== "dumb";
}
