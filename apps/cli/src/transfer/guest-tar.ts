import { isUtf8 } from "node:buffer";

import { CliError } from "../failure.ts";
import { printable } from "../output/printable.ts";

/** Folders travel as tar streams through a command in the guest: one connection, whatever the number of files. */

/** Longest part of tar's own messages that is kept in characters. */
const messagesLengthMax = 2_000;

/** `$1` is the folder; `~/` is the home, where commands start. */
export const packScript = 'exec tar -cf - -C "$1" .';
export const unpackScript = 'mkdir -p -- "$1" && exec tar -xf - -C "$1"';

/** A path for use after `cd ~`: the shell does not expand a tilde in an argument. */
export function guestPath(path: string): string {
  if (path === "~") return ".";
  if (path.startsWith("~/")) return `./${path.slice(2)}`;
  return path.startsWith("-") ? `./${path}` : path;
}

/** What a guest's tar says, bounded and safe to show. */
export class TarMessages {
  #text = "";

  add(data: Buffer): void {
    if (this.#text.length < messagesLengthMax) this.#text += isUtf8(data) ? data.toString("utf8") : data.toString("latin1");
  }

  get text(): string {
    return printable(this.#text.trim().replaceAll("\n", "; ").slice(0, messagesLengthMax));
  }

  failure(what: string, exitCode: number): CliError {
    const why = exitCode === 127 ? "there is no tar in the sandbox" : this.text === "" ? `tar exited with ${exitCode}` : this.text;
    return new CliError(`${what} failed: ${why}`);
  }
}
