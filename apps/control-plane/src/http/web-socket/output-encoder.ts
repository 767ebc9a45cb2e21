import { StringDecoder } from "node:string_decoder";

import type { ExecStreamServerMessage } from "@roost/contract";

import type { ProcessOutput } from "../../guest/process-stream.ts";

type OutputMessage = Extract<ExecStreamServerMessage, { type: "stdout" | "stderr" }>;

/** Bytes of output in one message; a guest's larger pieces are cut, so that one message never exceeds what waits for a slow reader */
const messageBytesMax = 64 * 1024;

/** Output as messages: base64 byte-exact, or text whose characters are never split between two messages. */
export class OutputEncoder {
  readonly #encoding: "utf-8" | "base64";
  readonly #decoders = { stdout: new StringDecoder("utf8"), stderr: new StringDecoder("utf8") };

  constructor(encoding: "utf-8" | "base64") {
    this.#encoding = encoding;
  }

  *encode(output: ProcessOutput): Generator<OutputMessage> {
    const type = output.stream === "stderr" ? "stderr" : "stdout"; // what a terminal prints is its standard output
    for (let offset = 0; offset < output.data.length; offset += messageBytesMax) {
      const piece = Buffer.from(
        output.data.buffer,
        output.data.byteOffset + offset,
        Math.min(messageBytesMax, output.data.length - offset),
      );
      const data = this.#encoding === "base64" ? piece.toString("base64") : this.#decoders[type].write(piece);
      if (data !== "") yield { type, data };
    }
  }

  /** What was kept of a character that never became whole. */
  *end(): Generator<OutputMessage> {
    for (const type of ["stdout", "stderr"] as const) {
      const data = this.#decoders[type].end();
      if (data !== "") yield { type, data };
    }
  }
}
