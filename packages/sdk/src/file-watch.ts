import type { WatchServerMessage } from "@roost/contract";

import { RoostError } from "./errors.ts";
import type { MessageSocket } from "./message-socket.ts";

export type FileChange = Extract<WatchServerMessage, { type: "event" }>;

/** Changes in a folder as they happen, until it is closed. Iterate it once. */
export class FileWatch implements AsyncIterable<FileChange>, AsyncDisposable {
  readonly #socket: MessageSocket<WatchServerMessage>;
  #isClosed = false;

  private constructor(socket: MessageSocket<WatchServerMessage>) {
    this.#socket = socket;
  }

  /** Resolves once the watch is in place: no later change is missed. */
  static async started(socket: MessageSocket<WatchServerMessage>): Promise<FileWatch> {
    const first = await socket.next();
    if (first?.type === "start") return new FileWatch(socket);
    socket.close();
    if (first?.type === "error") throw new RoostError(first.code, first.data);
    throw new RoostError("connection_lost", "the connection ended before the watch was in place");
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<FileChange, void, void> {
    try {
      for (;;) {
        const message = await this.#socket.next();
        if (message?.type === "event") yield message;
        else if (message?.type === "error") throw new RoostError(message.code, message.data);
        else if (message === undefined) {
          if (this.#isClosed) return;
          throw new RoostError("connection_lost", "the connection ended while watching");
        }
      }
    } finally {
      this.close();
    }
  }

  close(): void {
    this.#isClosed = true;
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
