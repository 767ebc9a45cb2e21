import { closeSync, readSync } from "node:fs";
import { Socket, type SocketConstructorOpts } from "node:net";
import { ReadStream } from "node:tty";

export interface OutputReaderEvents {
  /** The bytes are the receiver's. */
  readonly onData: (bytes: Uint8Array) => void;
  readonly onClose: () => void;
}

/** Buffers kept for the next processes; most run one after the other. */
const spareBuffersMax = 8;
const spareBuffers: Uint8Array[] = [];

function takeBuffer(bytes: number): Uint8Array {
  const index = spareBuffers.findIndex((spare) => spare.length === bytes);
  return index < 0 ? Buffer.allocUnsafeSlow(bytes) : (spareBuffers.splice(index, 1)[0] ?? Buffer.allocUnsafeSlow(bytes));
}

function giveBack(buffer: Uint8Array): void {
  if (spareBuffers.length < spareBuffersMax) spareBuffers.push(buffer);
}

/** Node has had it for long; its types do not know it yet. */
interface ReadIntoBuffer {
  readonly onread: { readonly buffer: Uint8Array; readonly callback: (length: number, buffer: Uint8Array) => boolean };
}

/** What `drain` found: the end of file; nothing more for now; or that `onData` paused the reader. */
export type Drained = "end" | "empty" | "paused";

/**
 * Reads a pipe or a terminal's master side, piece by piece into one buffer, with nothing held back in between.
 * Nothing is read before `listen` or `drain`.
 */
export class OutputReader {
  readonly #kind: "pipe" | "terminal";
  readonly #fd: number;
  readonly #buffer: Uint8Array;
  readonly #events: OutputReaderEvents;
  #socket: Socket | undefined;
  #closed = false;
  #paused = false;

  constructor(kind: "pipe" | "terminal", fd: number, chunkBytesMax: number, events: OutputReaderEvents) {
    this.#kind = kind;
    this.#fd = fd;
    this.#events = events;
    this.#buffer = takeBuffer(chunkBytesMax);
  }

  /** Reads from now on as bytes come. Answers the socket, which also writes when it is a terminal. */
  listen(): Socket {
    if (this.#socket !== undefined) return this.#socket;
    const callback = (length: number) => {
      this.#hand(length);
      return true;
    };
    const options: SocketConstructorOpts & ReadIntoBuffer = { onread: { buffer: this.#buffer, callback } };
    const socket =
      this.#kind === "terminal"
        ? new ReadStream(this.#fd, options)
        : new Socket({ ...options, fd: this.#fd, readable: true, writable: false });
    socket.on("error", () => socket.destroy());
    socket.on("end", () => socket.destroy());
    socket.on("close", () => this.#onClosed());
    if (this.#paused) socket.pause();
    else socket.resume();
    this.#socket = socket;
    return socket;
  }

  pause(): void {
    this.#paused = true;
    this.#socket?.pause();
  }

  resume(): void {
    this.#paused = false;
    this.#socket?.resume();
  }

  /**
   * Reads what is there, without waiting.
   *
   * This is how the rest of a terminal is read when its process ended. Waiting for its end of file would lose output: libuv takes
   * a short read together with a hangup for the end, but a terminal reads in small pieces and has more.
   */
  drain(): Drained {
    while (!this.#closed && this.#socket?.destroyed !== true) {
      if (this.#paused) return "paused";
      let length: number;
      try {
        length = readSync(this.#fd, this.#buffer);
      } catch (error) {
        return (error as NodeJS.ErrnoException).code === "EAGAIN" ? "empty" : "end"; // EIO: a terminal nobody has open
      }
      if (length === 0) return "end";
      this.#hand(length);
    }
    return "end";
  }

  close(): void {
    if (this.#socket !== undefined) this.#socket.destroy();
    else if (!this.#closed) {
      closeSync(this.#fd);
      this.#onClosed();
    }
  }

  #onClosed(): void {
    this.#closed = true;
    giveBack(this.#buffer);
    this.#events.onClose();
  }

  #hand(length: number): void {
    this.#events.onData(Buffer.from(this.#buffer.subarray(0, length))); // a copy: the buffer is read into again
  }
}
