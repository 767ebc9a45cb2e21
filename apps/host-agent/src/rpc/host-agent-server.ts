import { createServer, type Server as HttpServer } from "node:http";
import { createServer as createHttp2Server, type Http2Server, type ServerHttp2Session } from "node:http2";
import type { AddressInfo } from "node:net";
import { createServer as createTlsServer, type Server as TlsServer, type TLSSocket } from "node:tls";

import type { ServiceImpl } from "@connectrpc/connect";
import { connectNodeAdapter } from "@connectrpc/connect-node";
import { certificateName, controlPlaneName, PlatformError, type GuestTunnels } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { KiB, limitPeers, MiB, poll, RawSockets, second, type Logger } from "@roost/kit";

import { refuseUpgrade, TunnelUpgrades } from "./tunnel-upgrades.ts";

/** Time for a TLS handshake, and then for the head of a request, in `ms` */
const greetTimeoutMs = 10 * second;
/** Longest head of a request in `bytes`; ours have some hundred */
const headBytesMax = 8 * KiB;
/** Connections at once, tunnels included; above it new ones are closed unheard */
const connectionsMax = 16_384;
/** Of these, of all who did not show the control plane's certificate yet */
const strangersMax = 256;
/** Calls at once on one connection; a control plane has one connection for all of its calls */
const callsMax = 1_024;
/** Longest message of a call in `bytes`: parts of archives have 1 MiB */
const messageBytesMax = 4 * MiB;
/** Longest wait in `ms` for calls under way when the host agent ends: a create under emulation takes seconds */
const drainTimeoutMs = 20 * second;
/** A call that goes on for ever: a control plane that loses it asks another time */
const watchCall = "/WatchSandboxes";
/** What a sender may have under way before it is read, in `bytes` per call */
const windowBytes = 1 * MiB;
/** Silence in `ms` after which the kernel asks whether the other side is still there; ten questions, a second apart */
const keepAliveMs = 15 * second;

/** A key with its certificate, and the authority whose certificates count. All PEM. */
export interface TlsIdentity {
  readonly keyPem: string;
  readonly certificatePem: string;
  readonly caPem: string;
}

export interface HostAgentServerOptions {
  readonly identity: TlsIdentity;
  readonly service: ServiceImpl<typeof HostAgentService>;
  readonly tunnels: GuestTunnels;
  readonly log: Logger;
}

/**
 * The host agent's listener for its control plane, and for nobody else: TLS 1.3, with a certificate asked for and looked at before a byte of HTTP is read.
 *
 *     TLS ── whose certificate? ── control plane ─▶ ALPN h2:       `hostagent.v1` (Connect)
 *              │                                    ALPN http/1.1: guest tunnels, by an upgrade
 *              └─ anybody else's, also another host's ─▶ closed
 */
export class HostAgentServer {
  readonly #tls: TlsServer;
  readonly #calls: Http2Server;
  readonly #upgrades: HttpServer;
  readonly #tunnels: TunnelUpgrades;
  readonly #sessions = new Set<ServerHttp2Session>();
  readonly #sockets: RawSockets;
  readonly #log: Logger;
  /** Calls under way, without those that go on for ever */
  #calling = 0;

  private constructor(options: HostAgentServerOptions) {
    this.#log = options.log;
    this.#calls = createHttp2Server(
      { settings: { maxConcurrentStreams: callsMax, initialWindowSize: windowBytes } },
      connectNodeAdapter({ readMaxBytes: messageBytesMax, routes: ({ service }) => void service(HostAgentService, options.service) }),
    );
    this.#calls.on("session", (session) => {
      this.#sessions.add(session);
      session.once("close", () => this.#sessions.delete(session));
    });
    this.#calls.on("stream", (stream, headers) => {
      if (headers[":path"]?.endsWith(watchCall) === true) return;
      this.#calling += 1;
      stream.once("close", () => (this.#calling -= 1));
    });
    this.#calls.on("sessionError", (error) => this.#log.debug({ err: error }, "a connection of the control plane broke"));

    this.#tunnels = new TunnelUpgrades(options.tunnels, options.log);
    this.#upgrades = createServer({
      headersTimeout: greetTimeoutMs,
      requestTimeout: greetTimeoutMs,
      connectionsCheckingInterval: greetTimeoutMs / 2,
      maxHeaderSize: headBytesMax,
    });
    this.#upgrades.on("request", ({ socket }) => {
      refuseUpgrade(socket, new PlatformError("route_not_found", "this port serves tunnels by HTTP/1.1 upgrades, and calls by HTTP/2"));
    });
    this.#upgrades.on("upgrade", (request, socket, head) => {
      this.#tunnels.upgrade({ request, socket, head, reset: () => this.#sockets.reset(socket as TLSSocket) });
    });

    this.#tls = createTlsServer(
      {
        ...contextOptions(options.identity),
        ALPNProtocols: ["h2", "http/1.1"],
        requestCert: true,
        rejectUnauthorized: true,
        handshakeTimeout: greetTimeoutMs,
        allowHalfOpen: true,
        noDelay: true,
        keepAlive: true,
        keepAliveInitialDelay: keepAliveMs,
      },
      (socket) => this.#serve(socket),
    );
    this.#tls.maxConnections = connectionsMax;
    limitPeers(this.#tls, { strangersMax, perPeerMax: connectionsMax, nameOf: nameOfPeer });
    this.#sockets = new RawSockets(this.#tls);
    this.#tls.on("tlsClientError", (error, socket) => {
      this.#log.info({ err: error, from: socket.remoteAddress }, "a connection without a certificate of the control plane was refused");
    });
  }

  static async listen(options: HostAgentServerOptions, host: string, port: number): Promise<HostAgentServer> {
    const server = new HostAgentServer(options);
    await new Promise<void>((resolve, reject) => {
      server.#tls.once("error", reject);
      server.#tls.listen({ host, port }, () => {
        server.#tls.removeListener("error", reject);
        server.#tls.on("error", (error) => options.log.error({ err: error }, "the listener for the control plane failed"));
        resolve();
      });
    });
    return server;
  }

  get port(): number {
    return (this.#tls.address() as AddressInfo).port;
  }

  /** From the next connection on; those that are open stay. */
  useIdentity(identity: TlsIdentity): void {
    this.#tls.setSecureContext(contextOptions(identity));
  }

  /** Takes no new connections and calls, and resolves when those under way have ended, or after a while. Tunnels go on. */
  async drain(): Promise<void> {
    this.#refuseMore();
    const done = () => (this.#calling === 0 ? true : undefined);
    await poll({ what: "the end of calls under way", timeoutMs: drainTimeoutMs }, done).catch((error: unknown) =>
      this.#log.warn({ err: error, calls: this.#calling }, "cutting off calls"),
    );
  }

  #refuseMore(): void {
    this.#tls.close();
    for (const session of this.#sessions) session.close();
  }

  /** Cuts everything. Idempotent. */
  async close(): Promise<void> {
    this.#refuseMore();
    for (const session of this.#sessions) session.destroy();
    const gone = this.#sockets.all.map((socket) => new Promise((resolve) => socket.once("close", resolve)));
    for (const socket of this.#sockets.all) socket.destroy();
    await Promise.all(gone);
  }

  #serve(socket: TLSSocket): void {
    const name = nameOfPeer(socket);
    if (name !== controlPlaneName) {
      this.#log.warn({ from: socket.remoteAddress, name }, "a certificate that is not the control plane's was refused");
      socket.destroy();
      return;
    }
    if (socket.alpnProtocol === "h2") this.#calls.emit("connection", socket);
    else this.#upgrades.emit("connection", socket);
  }
}

function nameOfPeer(socket: TLSSocket): string | undefined {
  // One that is gone already shows none
  return socket.destroyed ? undefined : certificateName(socket.getPeerCertificate().subjectaltname);
}

function contextOptions({ keyPem, certificatePem, caPem }: TlsIdentity) {
  return { key: keyPem, cert: certificatePem, ca: caPem, minVersion: "TLSv1.3" } as const;
}
