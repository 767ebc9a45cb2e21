import { Duplex } from "node:stream";

import { PlatformError, tunnelClientSchema, webSocketBufferedBytesMax, type TunnelServerMessage } from "@roost/contract";
import { Deferred, second } from "@roost/kit";
import type { RawData, WebSocket } from "ws";

import { pingIntervalMs } from "../http/web-socket/json-socket.ts";

/** Time a guest has in `ms` to take the rest of what a client sent that has gone */
const lingerMs = 60 * second;
/** Time a client has to answer our close in `ms` before the connection is cut */
const closeTimeoutMs = 5 * second;

const protocolText = 'text messages of a tunnel are {"type":"end"}; bytes go in binary messages';

/**
 * A tunnel's WebSocket: `stream` is the bytes, whose reading ends with the client's `end` and whose ending sends ours. The client is read from as fast as
 * the stream is; a write is done when there is room for more. Destroying the stream leaves the WebSocket open, so that an error can be told.
 */
export class TunnelSocket {
  readonly stream: Duplex;
  readonly #socket: WebSocket;
  readonly #gone = new AbortController();
  readonly #misused = new Deferred<never>();
  #hasEnded = false;
  #heardPong = true;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    this.#misused.promise.catch(() => undefined); // nobody may be waiting yet
    this.stream = new Duplex({
      read: () => this.#setPaused(false),
      write: (bytes: Buffer, _encoding, done) => this.#write(bytes, done),
      final: (done) => void this.send({ type: "end" }).then(() => done(), done),
    });
    this.stream.on("error", () => undefined); // whoever joins it is told
    this.#setPaused(true); // until somebody reads: the guest has to be reached first
    socket.on("message", (data, isBinary) => this.#receive(data, isBinary));
    socket.on("error", () => undefined); // always followed by close
    socket.on("pong", () => (this.#heardPong = true));
    const pinger = setInterval(() => this.#ping(), pingIntervalMs);
    socket.on("close", () => {
      clearInterval(pinger);
      this.#gone.abort(new Error("the client closed the socket"));
      // A client that is done with both directions leaves; what it sent last may still be on its way to the guest.
      const isComplete = this.#hasEnded && this.stream.writableFinished;
      if (!isComplete) return void this.stream.destroy();
      const timer = setTimeout(() => this.stream.destroy(), lingerMs);
      this.stream.once("close", () => clearTimeout(timer));
    });
  }

  /** Aborts when the socket is closed, by whichever side. */
  get closed(): AbortSignal {
    return this.#gone.signal;
  }

  /** Rejects when the client sends what is not of the protocol. */
  get misused(): Promise<never> {
    return this.#misused.promise;
  }

  async send(message: TunnelServerMessage): Promise<void> {
    if (this.#socket.readyState === this.#socket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /** Closes the socket after what was sent; cuts it when the client does not answer. */
  close(code: number, reason: string): void {
    const socket = this.#socket;
    this.stream.destroy();
    this.#setPaused(false); // else the client's answer to the close would never be read
    socket.close(code, reason);
    const timer = setTimeout(() => socket.terminate(), closeTimeoutMs);
    socket.once("close", () => clearTimeout(timer));
  }

  #receive(data: RawData, isBinary: boolean): void {
    if (this.stream.destroyed) return;
    const bytes = data as Buffer; // `ws` gives one Buffer per message unless told otherwise
    if (isBinary && !this.#hasEnded) {
      if (!this.stream.push(bytes)) this.#setPaused(true);
    } else if (!isBinary && !this.#hasEnded && isEnd(bytes)) {
      this.#hasEnded = true;
      this.stream.push(null);
    } else this.#misused.reject(new PlatformError("request_invalid", this.#hasEnded ? "nothing may follow `end`" : protocolText));
  }

  #write(bytes: Buffer, done: (error?: Error | null) => void): void {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return done(new Error("the client closed the socket"));
    const isFull = socket.bufferedAmount + bytes.length > webSocketBufferedBytesMax;
    socket.send(bytes, { binary: true }, isFull ? done : undefined);
    if (!isFull) done();
  }

  #setPaused(isPaused: boolean): void {
    if (isPaused) this.#socket.pause();
    else this.#socket.resume();
  }

  #ping(): void {
    const socket = this.#socket;
    // While it is not read its pong may be behind what waits; the ping is still of use, as the kernel tells when nobody is there.
    if (socket.isPaused) this.#heardPong = true;
    if (!this.#heardPong) return socket.terminate();
    this.#heardPong = socket.isPaused;
    socket.ping();
  }
}

function isEnd(bytes: Buffer): boolean {
  try {
    return tunnelClientSchema.safeParse(JSON.parse(bytes.toString("utf8"))).success;
  } catch {
    return false;
  }
}
