import { isUtf8 } from "node:buffer";

import { PlatformError, webSocketBufferedBytesMax } from "@roost/contract";
import { second } from "@roost/kit";
import type { RawData, WebSocket } from "ws";
import type { z } from "zod";

import { describeIssues } from "../validation.ts";

/** Time between two pings in `ms`; a client that has not answered one by the next is gone */
export const pingIntervalMs = 30 * second;
/** Time a client has for its first message in `ms` */
export const firstMessageTimeoutMs = 10 * second;
/** Time a client has to answer our close in `ms` before the connection is cut */
const closeTimeoutMs = 5 * second;

/** Close codes of RFC 6455 that are used here. */
export const closeCodes = { normal: 1000, goingAway: 1001, policy: 1008, internal: 1011 } as const;

/**
 * JSON messages over a WebSocket, with back-pressure both ways: `send` waits while the client does not read, and the
 * client is not read from while more than `webSocketBufferedBytesMax` of its messages wait to be handled.
 */
export class JsonSocket<Incoming, Outgoing> implements AsyncIterable<Incoming> {
  readonly #socket: WebSocket;
  readonly #schema: z.ZodType<Incoming> | undefined;
  readonly #queue: { readonly message: Incoming; readonly bytes: number }[] = [];
  readonly #closed = new AbortController();
  readonly #waitingForRoom = new Set<() => void>();
  #queuedBytes = 0;
  #isPaused = false;
  #failure: PlatformError | undefined;
  #wake: (() => void) | undefined;
  #heardPong = true;

  constructor(socket: WebSocket, schema: z.ZodType<Incoming> | undefined) {
    this.#socket = socket;
    this.#schema = schema;
    socket.on("message", (data, isBinary) => this.#receive(data, isBinary));
    socket.on("error", () => undefined); // always followed by close; a client's protocol errors are not ours to log
    socket.on("pong", () => (this.#heardPong = true));
    const pinger = setInterval(() => this.#ping(), pingIntervalMs);
    socket.on("close", () => {
      clearInterval(pinger);
      this.#closed.abort(new Error("the client closed the socket"));
      this.#wake?.();
      for (const resolve of this.#waitingForRoom) resolve();
      this.#waitingForRoom.clear();
    });
  }

  /** Aborts when the socket is closed, by whichever side. */
  get closed(): AbortSignal {
    return this.#closed.signal;
  }

  /** Resolves when there is room for more; at once when the socket is closed, because nobody minds then. */
  async send(message: Outgoing): Promise<void> {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return;
    await new Promise<void>((resolve) => {
      socket.send(JSON.stringify(message), () => {
        this.#waitingForRoom.delete(resolve);
        resolve();
      });
      if (socket.bufferedAmount < webSocketBufferedBytesMax) resolve();
      else this.#waitingForRoom.add(resolve);
    });
  }

  /** The first message; throws when it does not come in time. Undefined when the client went away instead. */
  async first(): Promise<Incoming | undefined> {
    const late = () => this.#fail(new PlatformError("request_invalid", "the first message did not come in time"));
    const timer = setTimeout(late, firstMessageTimeoutMs);
    try {
      return await this.#next();
    } finally {
      clearTimeout(timer);
    }
  }

  /** Resolves when the client is gone; rejects when it sends something, for sockets on which it has nothing to say. */
  async gone(): Promise<"client gone"> {
    await this.#next();
    return "client gone";
  }

  /** Messages until the socket closes; throws for one that is not of the protocol. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Incoming, void, undefined> {
    for (let message = await this.#next(); message !== undefined; message = await this.#next()) yield message;
  }

  /** Closes the socket after what was sent; cuts it when the client does not answer. */
  close(code: number, reason: string): void {
    const socket = this.#socket;
    this.#setPaused(false); // else the client's answer to the close would never be read
    this.#queue.length = 0;
    socket.close(code, Buffer.from(reason, "utf8").subarray(0, 120).toString("utf8").replaceAll("\u{FFFD}", ""));
    const timer = setTimeout(() => socket.terminate(), closeTimeoutMs);
    socket.once("close", () => clearTimeout(timer));
  }

  #receive(data: RawData, isBinary: boolean): void {
    if (this.#schema === undefined) return this.#fail(new PlatformError("request_invalid", "this socket takes no messages"));
    if (isBinary) return this.#fail(new PlatformError("request_invalid", "messages are JSON text, not binary"));
    const bytes = data as Buffer; // `ws` gives one Buffer per message unless told otherwise
    let parsed: unknown;
    try {
      if (!isUtf8(bytes)) throw new Error("not UTF-8");
      parsed = JSON.parse(bytes.toString("utf8"));
    } catch {
      return this.#fail(new PlatformError("request_invalid", "a message is not valid JSON"));
    }
    const checked = this.#schema.safeParse(parsed);
    if (!checked.success) return this.#fail(new PlatformError("request_invalid", describeIssues(checked.error, parsed, "the message")));
    this.#queue.push({ message: checked.data, bytes: bytes.length });
    this.#queuedBytes += bytes.length;
    if (this.#queuedBytes > webSocketBufferedBytesMax) this.#setPaused(true);
    this.#wake?.();
  }

  async #next(): Promise<Incoming | undefined> {
    for (;;) {
      if (this.#failure !== undefined) throw this.#failure;
      const queued = this.#queue.shift();
      if (queued !== undefined) {
        this.#queuedBytes -= queued.bytes;
        if (this.#isPaused && this.#queuedBytes < webSocketBufferedBytesMax / 2) this.#setPaused(false);
        return queued.message;
      }
      if (this.#closed.signal.aborted) return undefined;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }

  #fail(failure: PlatformError): void {
    this.#failure ??= failure;
    this.#wake?.();
  }

  #setPaused(isPaused: boolean): void {
    if (this.#isPaused === isPaused) return;
    this.#isPaused = isPaused;
    if (isPaused) this.#socket.pause();
    else this.#socket.resume();
  }

  #ping(): void {
    if (this.#isPaused) {
      this.#heardPong = true; // its pong may be behind what we do not read
      return;
    }
    if (!this.#heardPong) return this.#socket.terminate();
    this.#heardPong = false;
    this.#socket.ping();
  }
}
