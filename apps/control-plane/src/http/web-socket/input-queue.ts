import { webSocketBufferedBytesMax } from "@roost/contract";

import type { ProcessInput } from "../../guest/process-input.ts";

/** Pieces waiting for the process are joined up to this many `bytes`: many key strokes, one message */
const joinBytesMax = 64 * 1024;

/**
 * What a client typed, on its way into a process that may not be reading. `push` does not wait, so that a `stop` behind
 * it is still heard; `room` waits while too much is queued.
 */
export class InputQueue {
  readonly #input: ProcessInput;
  readonly #onFailure: (error: unknown) => void;
  readonly #pieces: Uint8Array[] = [];
  #bytes = 0;
  #isEnding = false;
  #hasFailed = false;
  #isWorking = false;
  #wake: (() => void) | undefined;

  constructor(input: ProcessInput, onFailure: (error: unknown) => void) {
    this.#input = input;
    this.#onFailure = onFailure;
  }

  push(data: Uint8Array): void {
    if (this.#hasFailed || this.#isEnding) return;
    this.#pieces.push(data);
    this.#bytes += data.length;
    this.#startWork();
  }

  /** Ends the input after what was pushed. */
  end(): void {
    if (this.#isEnding) return;
    this.#isEnding = true;
    this.#startWork();
  }

  /** Resolves when less than `webSocketBufferedBytesMax` waits, or nothing will be delivered any more. */
  async room(): Promise<void> {
    while (this.#bytes >= webSocketBufferedBytesMax && !this.#hasFailed) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  close(): void {
    this.#hasFailed = true;
    this.#pieces.length = 0;
    this.#input.close();
    this.#wake?.();
  }

  #startWork(): void {
    if (this.#isWorking) return;
    this.#isWorking = true;
    void this.#work();
  }

  async #work(): Promise<void> {
    try {
      while (this.#pieces.length > 0) {
        const piece = this.#takeJoined();
        await this.#input.write(piece);
        this.#bytes -= piece.length;
        this.#wake?.();
      }
      if (this.#isEnding) await this.#input.end();
      this.#isWorking = false;
    } catch (error) {
      if (this.#hasFailed) return;
      this.#hasFailed = true;
      this.#pieces.length = 0;
      this.#wake?.();
      this.#onFailure(error);
    }
  }

  #takeJoined(): Uint8Array {
    const joined: Uint8Array[] = [];
    let bytes = 0;
    for (
      let piece = this.#pieces[0];
      piece !== undefined && (bytes === 0 || bytes + piece.length <= joinBytesMax);
      piece = this.#pieces[0]
    ) {
      joined.push(piece);
      bytes += piece.length;
      this.#pieces.shift();
    }
    return joined.length === 1 ? (joined[0] ?? new Uint8Array()) : Buffer.concat(joined);
  }
}
