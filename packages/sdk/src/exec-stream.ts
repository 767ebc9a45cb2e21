import type { ExecStreamServerMessage } from "@roost/contract";

import { RoostError } from "./errors.ts";
import type { MessageSocket } from "./message-socket.ts";

/** Raw bytes of standard input per message: base64 of it stays well below the server's limit of 1 MiB. */
const stdinChunkBytes = 256 * 1024;

export type ExecEvent =
  | { readonly type: "stdout"; readonly data: Buffer }
  | { readonly type: "stderr"; readonly data: Buffer }
  /** The last one. */
  | { readonly type: "exit"; readonly exitCode: number };

/**
 * A running command whose output comes as it is written, byte for byte. Iterate it once; not reading slows the
 * command down rather than filling memory. Ends with one `exit` event, or throws a `RoostError`.
 */
export class ExecStream implements AsyncIterable<ExecEvent>, AsyncDisposable {
  readonly pid: number;
  readonly tag: string;
  readonly #socket: MessageSocket<ExecStreamServerMessage>;
  #hasEnded = false;

  private constructor(socket: MessageSocket<ExecStreamServerMessage>, pid: number, tag: string) {
    this.#socket = socket;
    this.pid = pid;
    this.tag = tag;
  }

  /** Takes an opened socket whose start was asked for; resolves when the process runs. */
  static async started(socket: MessageSocket<ExecStreamServerMessage>): Promise<ExecStream> {
    const first = await socket.next();
    if (first?.type === "start") return new ExecStream(socket, first.pid, first.tag);
    socket.close();
    if (first === undefined) throw new RoostError("connection_lost", "the connection ended before the command started");
    if (first.type === "error") throw new RoostError(first.code, first.data);
    throw new RoostError("answer_invalid", `the server sent ${first.type} before start`);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<ExecEvent, void, void> {
    try {
      while (!this.#hasEnded) {
        const event = await this.#next();
        this.#hasEnded = event.type === "exit";
        yield event;
      }
    } finally {
      this.close();
    }
  }

  async #next(): Promise<ExecEvent> {
    for (;;) {
      const message = await this.#socket.next();
      switch (message?.type) {
        case undefined:
          throw new RoostError("connection_lost", "the connection ended before the command did");
        case "error":
          throw new RoostError(message.code, message.data);
        case "exit":
          return { type: "exit", exitCode: message.exit_code };
        case "stdout":
        case "stderr":
          return { type: message.type, data: Buffer.from(message.data, "base64") };
        case "start":
          break; // already seen; a repeated one changes nothing
      }
    }
  }

  /** Reads to the end, dropping output; resolves with the exit code. */
  async exit(): Promise<number> {
    for await (const event of this) if (event.type === "exit") return event.exitCode;
    throw new RoostError("connection_lost", "the stream was read to its end before");
  }

  /** Writes to standard input; resolves when the bytes left this process. */
  async write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === "string" ? Buffer.from(data) : Buffer.from(data.buffer, data.byteOffset, data.byteLength);
    for (let start = 0; start < bytes.length; start += stdinChunkBytes) {
      await this.#socket.send({ type: "stdin", data: bytes.toString("base64", start, Math.min(start + stdinChunkBytes, bytes.length)) });
    }
  }

  /** Writes all of a stream, then closes standard input. */
  async writeAll(source: AsyncIterable<string | Uint8Array>): Promise<void> {
    for await (const chunk of source) await this.write(chunk);
    await this.closeStdin();
  }

  async closeStdin(): Promise<void> {
    await this.#socket.send({ type: "stdin_close" });
  }

  /** SIGTERM to the process group, SIGKILL when it is still there 5 s later. */
  async stop(): Promise<void> {
    await this.#socket.send({ type: "stop" });
  }

  async signal(signal: "SIGTERM" | "SIGKILL"): Promise<void> {
    await this.#socket.send({ type: "signal", signal });
  }

  /** Stops listening. The server ends a command without a tag of its own; a tagged one runs on. */
  close(): void {
    this.#hasEnded = true;
    this.#socket.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }
}
