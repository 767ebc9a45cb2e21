import type { z } from "zod";
import { WebSocket, type RawData } from "ws";

import type { Connection, RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { describe } from "./http.ts";
import { openWebSocket } from "./web-socket.ts";

/** Received but unread bytes above which the socket is not read any more: TCP then slows the sender. */
const unreadBytesMax = 1024 * 1024;
/** A ping this often in `ms`; without any sign of life for three of them the connection counts as lost. */
const pingIntervalMs = 20_000;
const silentPingsMax = 3;

/** JSON messages over one WebSocket: checked against a schema, read with back-pressure, ended by a signal. */
export class MessageSocket<Message> {
  readonly #socket: WebSocket;
  readonly #schema: z.ZodType<Message>;
  readonly #unread: { readonly message: Message; readonly bytes: number }[] = [];
  readonly #signal: AbortSignal | undefined;
  #unreadBytes = 0;
  #silentPings = 0;
  #failure: unknown;
  #isClosed = false;
  #wake: (() => void) | undefined;

  private constructor(socket: WebSocket, schema: z.ZodType<Message>, signal: AbortSignal | undefined) {
    this.#socket = socket;
    this.#schema = schema;
    this.#signal = signal;
    const pings = setInterval(() => this.#ping(), pingIntervalMs);
    pings.unref();
    socket.on("message", (data) => this.#receive(data));
    socket.on("pong", () => (this.#silentPings = 0));
    socket.on("ping", () => (this.#silentPings = 0));
    socket.on("error", (error) =>
      this.#fail(new RoostError("connection_lost", `the connection failed: ${describe(error)}`, { cause: error })),
    );
    socket.on("close", () => {
      clearInterval(pings);
      signal?.removeEventListener("abort", this.#onAbort);
      this.#isClosed = true;
      this.#wake?.();
    });
    signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (signal?.aborted === true) this.#onAbort();
  }

  /** Opens the socket; a refused upgrade rejects with the server's error. */
  static async open<Message>(
    connection: Connection,
    url: URL,
    schema: z.ZodType<Message>,
    options: RequestOptions,
  ): Promise<MessageSocket<Message>> {
    const socket = await openWebSocket(connection, url, options);
    const opened = new MessageSocket(socket, schema, options.signal);
    socket.resume();
    return opened;
  }

  /** Resolves when the message has left this process: writing faster than the server reads waits here. */
  async send(message: object): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    if (this.#socket.readyState !== WebSocket.OPEN) throw new RoostError("connection_lost", "the connection is closed");
    await new Promise<void>((resolve, reject) => {
      this.#socket.send(JSON.stringify(message), (error) => {
        if (error === undefined || error === null) resolve();
        else reject(this.#failure ?? new RoostError("connection_lost", "the connection ended while sending", { cause: error }));
      });
    });
  }

  /** The next message; undefined once the socket is closed and all that came before was read. */
  async next(): Promise<Message | undefined> {
    for (;;) {
      const first = this.#unread.shift();
      if (first !== undefined) {
        this.#unreadBytes -= first.bytes;
        if (this.#socket.isPaused && this.#unreadBytes < unreadBytesMax / 2) this.#socket.resume();
        return first.message;
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#isClosed) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  close(): void {
    if (this.#socket.isPaused) this.#socket.terminate(); // a paused socket would never see the closing handshake
    else this.#socket.close(1000);
  }

  #receive(data: RawData): void {
    this.#silentPings = 0;
    const bytes = data as Buffer; // ws delivers Buffers unless told otherwise
    const parsed = this.#parse(bytes);
    if (parsed === undefined) return;
    this.#unread.push({ message: parsed, bytes: bytes.length });
    this.#unreadBytes += bytes.length;
    if (this.#unreadBytes > unreadBytesMax) this.#socket.pause();
    this.#wake?.();
  }

  #parse(bytes: Buffer): Message | undefined {
    try {
      return this.#schema.parse(JSON.parse(bytes.toString("utf8")));
    } catch (error) {
      this.#fail(new RoostError("answer_invalid", "the server sent a message this client does not understand", { cause: error }));
      return undefined;
    }
  }

  #ping(): void {
    if (this.#socket.isPaused || this.#socket.readyState !== WebSocket.OPEN) return; // a paused socket hears no answer
    if (this.#silentPings >= silentPingsMax) {
      this.#fail(new RoostError("connection_lost", "the server has gone silent"));
      return;
    }
    this.#silentPings += 1;
    this.#socket.ping();
  }

  readonly #onAbort = (): void => this.#fail(this.#signal?.reason);

  #fail(failure: unknown): void {
    this.#failure ??= failure;
    this.#socket.terminate();
    this.#wake?.();
  }
}
