import { Transform, type TransformCallback } from "node:stream";

import { transferStallMs } from "../guest/file-transfer.ts";

/**
 * Passes bytes on, counts them, and gives up on a transfer in which nothing moves for `transferStallMs`. Whoever made one destroys it when the transfer is over, however it went. Its failure is its
 * reader's matter, now or when somebody comes to read.
 */
export class TransferMeter extends Transform {
  readonly #count: (bytes: number) => void;
  readonly #timer: NodeJS.Timeout;

  constructor(count: (bytes: number) => void) {
    super();
    this.#count = count;
    this.on("error", () => undefined); // an upload that was refused has no reader, and Node would end the process for that
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
