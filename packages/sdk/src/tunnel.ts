import { Duplex } from "node:stream";

import { tunnelServerSchema, type TunnelServerMessage } from "@roost/contract";
import { WebSocket, type RawData } from "ws";

import type { Connection, RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { openWebSocket } from "./web-socket.ts";

/** Bytes in one message: well below the server's limit of 1 MiB. */
const messageBytesMax = 256 * 1024;
/** Bytes that wait for the server above which writing waits. */
const unsentBytesMax = 1024 * 1024;
/** A ping this often in `ms`; without any sign of life for three of them the connection counts as lost. */
const pingIntervalMs = 20_000;
const silentPingsMax = 3;
/** Time the server has to answer our close in `ms`. */
const closeTimeoutMs = 5_000;

/**
 * A TCP connection to a port of a sandbox. Like a socket that may be half-open: `end()` tells the server in the sandbox that no more comes, what it
 * sends still arrives. A connection that breaks off ends with a `RoostError`, never as if it were complete.
 */
export class Tunnel extends Duplex {
  readonly #socket: WebSocket;
  readonly #signal: AbortSignal | undefined;
  readonly #pings: NodeJS.Timeout;
  #silentPings = 0;
  #hasHeardEnd = false;
  #onStart: (() => void) | undefined;

  private constructor(socket: WebSocket, signal: AbortSignal | undefined) {
    super({ allowHalfOpen: true });
    this.#socket = socket;
    this.#signal = signal;
    this.#pings = setInterval(() => this.#ping(), pingIntervalMs);
    this.#pings.unref();
    socket.on("message", (data, isBinary) => this.#receive(data, isBinary));
    this.on("error", ignore); // one that breaks before its user listens must not end the process; who reads or writes it is told
    const hear = () => (this.#silentPings = 0);
    socket.on("pong", hear);
    socket.on("ping", hear);
    socket.on("error", (error) => this.destroy(lost(error)));
    // What came before may wait to be read when the socket is closed
    socket.on("close", () => void (this.#hasHeardEnd && this.writableFinished ? undefined : this.destroy(lost())));
    signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (signal?.aborted === true) this.#onAbort();
  }

  /** Resolves when the sandbox has accepted the connection. */
  static async open(connection: Connection, url: URL, options: RequestOptions): Promise<Tunnel> {
    const tunnel = new Tunnel(await openWebSocket(connection, url, options), options.signal);
    await new Promise<void>((resolve, reject) => {
      tunnel.#onStart = () => {
        tunnel.off("error", reject);
        resolve();
      };
      tunnel.once("error", reject);
      tunnel.#socket.resume();
    });
    tunnel.#onStart = undefined;
    return tunnel;
  }

  override _read(): void {
    if (this.#onStart === undefined) this.#socket.resume();
  }

  override _write(bytes: Buffer, _encoding: BufferEncoding, done: (error?: Error | null) => void): void {
    const socket = this.#socket;
    for (let start = 0; start < bytes.length; start += messageBytesMax) {
      const isLast = start + messageBytesMax >= bytes.length;
      const isFull = socket.bufferedAmount > unsentBytesMax;
      const onSent = (error?: Error | null) => done(error === undefined || error === null ? null : lost(error));
      socket.send(bytes.subarray(start, start + messageBytesMax), { binary: true }, isLast && isFull ? onSent : ignore); // an error is followed by close
      if (isLast && !isFull) done();
    }
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#socket.send(JSON.stringify({ type: "end" }), (error) => done(error === undefined || error === null ? null : lost(error)));
  }

  override _destroy(error: Error | null, done: (error?: Error | null) => void): void {
    clearInterval(this.#pings);
    this.#signal?.removeEventListener("abort", this.#onAbort);
    const socket = this.#socket;
    if (this.readableEnded && this.writableFinished && socket.readyState === WebSocket.OPEN) {
      socket.resume(); // else its answer to the close would never be read
      socket.close(1000);
      const timer = setTimeout(() => socket.terminate(), closeTimeoutMs);
      socket.once("close", () => clearTimeout(timer));
    } else socket.terminate();
    done(error);
  }

  #receive(data: RawData, isBinary: boolean): void {
    this.#silentPings = 0;
    if (this.destroyed) return;
    const bytes = data as Buffer; // ws delivers Buffers unless told otherwise
    if (isBinary) {
      if (!this.push(bytes)) this.#socket.pause();
      return;
    }
    const message = parse(bytes);
    switch (message?.type) {
      case "start":
        return this.#onStart?.();
      case "end":
        this.#hasHeardEnd = true;
        return void this.push(null);
      case "error":
        return void this.destroy(new RoostError(message.code, message.data));
      case undefined:
        this.destroy(new RoostError("answer_invalid", "the server sent a message about the tunnel that this client does not understand"));
    }
  }

  #ping(): void {
    const socket = this.#socket;
    if (socket.isPaused || socket.readyState !== WebSocket.OPEN) return; // a paused socket hears no answer
    if (this.#silentPings >= silentPingsMax) return void this.destroy(lost(new Error("the server has gone silent")));
    this.#silentPings += 1;
    socket.ping();
  }

  readonly #onAbort = (): void => void this.destroy(this.#signal?.reason as Error);
}

function ignore(): void {}

function lost(cause?: Error): RoostError {
  return new RoostError("connection_lost", "the connection to the sandbox's port broke off", cause === undefined ? {} : { cause });
}

function parse(bytes: Buffer): TunnelServerMessage | undefined {
  try {
    return tunnelServerSchema.safeParse(JSON.parse(bytes.toString("utf8"))).data;
  } catch {
    return undefined;
  }
}
