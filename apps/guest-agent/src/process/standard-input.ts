import { Code, ConnectError } from "@connectrpc/connect";
import { MiB } from "@roost/kit";
import type { Socket } from "node:net";

/** Input that may wait in `bytes` for a process that does not read it; more is refused. */
export const inputQueuedBytesMax = 4 * MiB;

/** The writing side of a process's standard input or terminal. Writes keep their order and wait until the process took them. */
export class StandardInput {
  readonly #socket: Socket;
  #waitingBytes = 0;
  #closed = false;

  constructor(socket: Socket) {
    this.#socket = socket;
    // A reader that went away is an answer to whoever writes next, see `write`, not a failure of the agent.
    socket.on("error", () => {
      this.#closed = true;
    });
    socket.on("close", () => {
      this.#closed = true;
    });
  }

  async write(bytes: Uint8Array): Promise<void> {
    if (this.#closed) throw closedError();
    if (bytes.length === 0) return;
    if (this.#waitingBytes + bytes.length > inputQueuedBytesMax) {
      throw new ConnectError("the process does not read its input: too much of it is waiting", Code.ResourceExhausted);
    }
    this.#waitingBytes += bytes.length;
    try {
      await new Promise<void>((resolve, reject) => {
        this.#socket.write(bytes, (error) => (error ? reject(closedError(error)) : resolve()));
      });
    } finally {
      this.#waitingBytes -= bytes.length;
    }
  }

  /** End of file, after what was written. */
  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#socket.end();
  }

  /** Releases the descriptor at once. */
  destroy(): void {
    this.#closed = true;
    this.#socket.destroy();
  }
}

function closedError(cause?: Error): ConnectError {
  return new ConnectError("standard input of the process is closed", Code.FailedPrecondition, undefined, undefined, cause);
}
