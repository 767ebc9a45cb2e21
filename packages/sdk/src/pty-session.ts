import type { PtyServerMessage } from "@roost/contract";

import { RoostError } from "./errors.ts";
import type { MessageSocket } from "./message-socket.ts";

/** Raw bytes of input per message. */
const inputChunkBytes = 64 * 1024;

export type PtyEvent =
  | { readonly type: "output"; readonly data: Buffer }
  | { readonly type: "exit"; readonly exitCode: number }
  /** Something did not work, but the terminal goes on. */
  | { readonly type: "warning"; readonly code: string; readonly message: string };

/** A terminal in a sandbox. Iterate it once. Closing it leaves the process alive: `pty.connect(tag)` finds it again. */
export class PtySession implements AsyncIterable<PtyEvent>, AsyncDisposable {
  readonly pid: number;
  readonly tag: string;
  readonly #socket: MessageSocket<PtyServerMessage>;
  #hasEnded = false;

  private constructor(socket: MessageSocket<PtyServerMessage>, pid: number, tag: string) {
    this.#socket = socket;
    this.pid = pid;
    this.tag = tag;
  }

  /** Takes an opened socket that was told to start or connect; resolves when the terminal is there. */
  static async started(socket: MessageSocket<PtyServerMessage>): Promise<PtySession> {
    for (;;) {
      const message = await socket.next();
      if (message?.type === "started") return new PtySession(socket, message.pid, message.tag);
      if (message?.type === "ping") continue;
      socket.close();
      if (message === undefined) throw new RoostError("connection_lost", "the connection ended before the terminal started");
      if (message.type === "error") throw new RoostError(message.code, message.data);
      throw new RoostError("answer_invalid", `the server sent ${message.type} before started`);
    }
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<PtyEvent, void, void> {
    try {
      while (!this.#hasEnded) {
        const event = await this.#next();
        if (event === undefined) continue;
        this.#hasEnded = event.type === "exit";
        yield event;
      }
    } finally {
      this.close();
    }
  }

  async #next(): Promise<PtyEvent | undefined> {
    const message = await this.#socket.next();
    switch (message?.type) {
      case undefined:
        if (this.#hasEnded) return undefined; // closed by us
        throw new RoostError("connection_lost", "the connection to the terminal ended; its process may still run");
      case "output":
        return { type: "output", data: Buffer.from(message.data, "base64") };
      case "exit":
        return { type: "exit", exitCode: message.exit_code };
      case "error":
        if (message.fatal) throw new RoostError(message.code, message.data);
        return { type: "warning", code: message.code, message: message.data };
      case "ping":
      case "started":
        return undefined;
    }
  }

  async write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? Buffer.from(data) : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (let start = 0; start < bytes.length; start += inputChunkBytes) {
      await this.#socket.send({ type: "input", data: bytes.toString("base64", start, Math.min(start + inputChunkBytes, bytes.length)) });
    }
  }

  async resize(cols: number, rows: number): Promise<void> {
    await this.#socket.send({ type: "resize", cols, rows });
  }

  /** Kills the process. */
  async kill(): Promise<void> {
    await this.#socket.send({ type: "kill" });
  }

  /** Stops listening; the process lives on. */
  close(): void {
    this.#hasEnded = true;
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
