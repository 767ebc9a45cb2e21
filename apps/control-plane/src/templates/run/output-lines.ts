import { StringDecoder } from "node:string_decoder";
import { stripVTControlCharacters } from "node:util";

import { buildLogLineBytesMax } from "@roost/contract";

/** Lines that are kept to say what a command printed last */
const tailLinesMax = 20;
/** What is kept of each, in characters: they become part of a failure's message */
const tailLineLengthMax = 1_000;

/**
 * What a command prints, as lines of a log: one for each end of a line, a carriage return among them (progress bars), cut where one would never end. Nothing in them that a terminal would
 * obey. Bytes that are no text become U+FFFD.
 */
export class OutputLines {
  readonly #decoders = { stdout: new StringDecoder("utf8"), stderr: new StringDecoder("utf8") };
  readonly #partial = { stdout: "", stderr: "" };
  readonly #tail: string[] = [];

  /** Lines that are complete with this piece. */
  add(stream: "stdout" | "stderr" | "pty", data: Uint8Array): string[] {
    const source = stream === "stderr" ? "stderr" : "stdout";
    const text = this.#partial[source] + this.#decoders[source].write(data);
    const parts = text.split(/\r\n|\n|\r(?!$)/);
    this.#partial[source] = parts.pop() ?? "";
    if (this.#partial[source].length > buildLogLineBytesMax) {
      parts.push(this.#partial[source]);
      this.#partial[source] = "";
    }
    return this.#keep(parts);
  }

  /** What was not ended by an end of line. */
  rest(): string[] {
    return this.#keep((["stdout", "stderr"] as const).map((source) => this.#partial[source] + this.#decoders[source].end()));
  }

  /** The last lines of both streams, as they came; of long ones the start. */
  get tail(): readonly string[] {
    return this.#tail;
  }

  #keep(lines: readonly string[]): string[] {
    const kept = lines.map(plain).filter((line) => line !== "");
    this.#tail.push(...kept.slice(-tailLinesMax).map((line) => line.slice(0, tailLineLengthMax)));
    this.#tail.splice(0, this.#tail.length - tailLinesMax);
    return kept;
  }
}

/** Colours and other sequences for terminals go, tabs stay. */
function plain(line: string): string {
  return stripVTControlCharacters(line)
    .replaceAll(/[^\P{Cc}\t]/gu, "")
    .trimEnd();
}
