import { Transform, type TransformCallback } from "node:stream";

import { transferStallMs } from "../guest/file-transfer.ts";

/** Passes bytes on, counts them, and gives up on a transfer in which nothing moves for `transferStallMs`. */
export class TransferMeter extends Transform {
  readonly #count: (bytes: number) => void;
  readonly #timer: NodeJS.Timeout;

  constructor(count: (bytes: number) => void) {
    super();
    this.#count = count;
    this.#timer = setTimeout(() => this.destroy(new Error("the transfer stalled")), transferStallMs);
  }

  override _transform(chunk: Buffer, _encoding: BufferEncoding, done: TransformCallback): void {
    this.#timer.refresh();
    this.#count(chunk.length);
    done(null, chunk);
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearTimeout(this.#timer);
    done(error);
  }
}
