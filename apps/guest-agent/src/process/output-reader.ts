import { readSync } from "node:fs";
import { Socket, type SocketConstructorOpts } from "node:net";
import { ReadStream } from "node:tty";

export interface OutputReaderEvents {
  /** The bytes are the receiver's. */
  readonly onData: (bytes: Uint8Array) => void;
  readonly onClose: () => void;
}

/** Node has had it for long; its types do not know it yet. */
interface ReadIntoBuffer {
  readonly onread: { readonly buffer: Uint8Array; readonly callback: (length: number, buffer: Uint8Array) => boolean };
}

/** Reads a pipe or a terminal's master side, piece by piece into one buffer, with nothing held back in between. */
export class OutputReader {
  /** Also writes, when it is a terminal. */
  readonly socket: Socket;
  readonly #fd: number;
  readonly #buffer: Uint8Array;
  readonly #events: OutputReaderEvents;
  #paused = true;

  constructor(kind: "pipe" | "terminal", fd: number, chunkBytesMax: number, events: OutputReaderEvents) {
    this.#fd = fd;
    this.#events = events;
    this.#buffer = Buffer.allocUnsafeSlow(chunkBytesMax);
    const callback = (length: number) => {
      this.#hand(length);
      return true;
    };
    const options: SocketConstructorOpts & ReadIntoBuffer = { onread: { buffer: this.#buffer, callback } };
    this.socket = kind === "terminal" ? new ReadStream(fd, options) : new Socket({ ...options, fd, readable: true, writable: false });
    this.socket.pause();
    this.socket.on("error", () => this.socket.destroy());
    this.socket.on("end", () => this.socket.destroy());
    this.socket.on("close", () => events.onClose());
  }

  pause(): void {
    this.#paused = true;
    this.socket.pause();
  }

  resume(): void {
    this.#paused = false;
    this.socket.resume();
  }

  /**
   * Reads what is there, without waiting. Answers whether nothing is left; false when `onData` paused the reader.
   *
   * For a terminal whose process ended. Waiting for its end of file would lose output: libuv takes a short read
   * together with a hangup for the end, but a terminal reads in small pieces and has more.
   */
  drain(): boolean {
    while (!this.socket.destroyed) {
      if (this.#paused) return false;
      let length: number;
      try {
        length = readSync(this.#fd, this.#buffer);
      } catch {
        return true; // EAGAIN: nothing left. EIO: and nobody is left who could write.
      }
      if (length === 0) return true;
      this.#hand(length);
    }
    return true;
  }

  close(): void {
    this.socket.destroy();
  }

  #hand(length: number): void {
    this.#events.onData(Buffer.from(this.#buffer.subarray(0, length))); // a copy: the buffer is read into again
  }
}
