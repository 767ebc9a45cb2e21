import type { Server } from "node:http";
import { createServer as createHttp2Server, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { createServer as createTlsServer, type Server as TlsServer } from "node:tls";

import { KiB, RawSockets, second, type Logger } from "@roost/kit";

import { exchangeWithin } from "./http2-exchange.ts";
import type { PemPair } from "./local-certificates.ts";

/** Time a client has to greet in `ms` */
const handshakeTimeoutMs = 15 * second;
/** Connections at once; above, new ones are closed as soon as they come */
const connectionsMax = 4_096;
/** Requests at once on one connection of HTTP/2: browsers and SDKs have fewer */
const streamsMax = 256;
/** Headers of one request in `bytes`, as HTTP/2 counts them: what the server behind takes, and what each name and value count in addition */
const headerBytesMax = 64 * KiB;
/** What may wait on one connection of HTTP/2 for its client to read, in `MB`: all streams' windows, and a piece of each */
const sessionMebibytesMax = 64;
/** A connection of HTTP/2 without a request is kept this long in `ms`, like the server's own */
const idleTimeoutMs = 75 * second;
/** First keepalive probe of an idle TCP connection in `ms` */
const keepAliveMs = 60 * second;

/**
 * TLS in front of an HTTP server of this process. What speaks HTTP/1.1 inside is a connection of the server's like any other; streams of HTTP/2 become requests
 * to it (./http2-exchange.ts). So there is one server, with one set of limits, whatever the door.
 */
export class TlsDoor {
  readonly #tls: TlsServer;
  readonly #http2: Http2Server;
  readonly #sockets: RawSockets;
  readonly #sessions = new Set<ServerHttp2Session>();

  private constructor(server: Server, pem: PemPair, log: Logger) {
    this.#http2 = createHttp2Server({
      settings: { maxConcurrentStreams: streamsMax, maxHeaderListSize: headerBytesMax },
      maxSessionMemory: sessionMebibytesMax,
    });
    this.#http2.on("session", (session) => this.#follow(session));
    this.#http2.on("stream", (stream, headers, flags, rawHeaders?: unknown) => {
      const peer = stream.session?.socket;
      if (peer === undefined) return;
      const hasEnded = stream.endAfterHeaders;
      exchangeWithin(server, peer, { stream, headers, rawHeaders: rawHeaders as string[], hasEnded });
    });
    this.#http2.on("sessionError", (error) => log.debug({ err: error }, "a connection of HTTP/2 broke"));

    this.#tls = createTlsServer({
      ...contextOf(pem),
      ALPNProtocols: ["h2", "http/1.1"],
      handshakeTimeout: handshakeTimeoutMs,
      allowHalfOpen: true,
      noDelay: true,
      keepAlive: true,
      keepAliveInitialDelay: keepAliveMs,
    });
    this.#tls.maxConnections = connectionsMax;
    this.#sockets = new RawSockets(this.#tls);
    this.#tls.on("secureConnection", (socket) => {
      socket.resetAndDestroy = () => {
        this.#sockets.reset(socket);
        return socket.destroy();
      };
      (socket.alpnProtocol === "h2" ? this.#http2 : server).emit("connection", socket);
    });
    this.#tls.on("tlsClientError", (error, socket) => {
      log.debug({ err: error, from: socket.remoteAddress }, "a connection did not become TLS");
      socket.destroy();
    });
  }

  /** Listens in front of `server`, which need not listen itself. */
  static async listen(
    server: Server,
    options: { readonly pem: PemPair; readonly host: string; readonly port: number; readonly log: Logger },
  ): Promise<TlsDoor> {
    const door = new TlsDoor(server, options.pem, options.log);
    await new Promise<void>((resolve, reject) => {
      door.#tls.once("error", reject);
      door.#tls.listen({ host: options.host, port: options.port }, () => {
        door.#tls.removeListener("error", reject);
        door.#tls.on("error", (error) => options.log.error({ err: error }, "the TLS listener failed"));
        resolve();
      });
    });
    return door;
  }

  get port(): number {
    return (this.#tls.address() as AddressInfo).port;
  }

  /** From the next connection on. */
  useCertificate(pem: PemPair): void {
    this.#tls.setSecureContext(contextOf(pem));
  }

  /** Takes no new connections, and no new requests on those of HTTP/2; requests under way go on. */
  drain(): void {
    this.#tls.close();
    for (const session of this.#sessions) session.close();
  }

  /** Cuts everything. Idempotent. */
  close(): void {
    this.drain();
    for (const session of this.#sessions) session.destroy();
    for (const socket of this.#sockets.all) socket.destroy();
  }

  #follow(session: ServerHttp2Session): void {
    this.#sessions.add(session);
    let streams = 0;
    session.on("stream", (stream) => {
      streams += 1;
      stream.once("close", () => (streams -= 1));
    });
    session.setTimeout(idleTimeoutMs, () => {
      if (streams === 0) session.close();
    });
    session.once("close", () => this.#sessions.delete(session));
  }
}

function contextOf({ certificatePem, privateKeyPem }: PemPair) {
  return { cert: certificatePem, key: privateKeyPem, minVersion: "TLSv1.2" } as const;
}
