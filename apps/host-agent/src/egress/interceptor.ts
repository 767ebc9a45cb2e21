import { createServer, type Server } from "node:https";
import type { IncomingMessage, ServerResponse } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";
import type { TLSSocket } from "node:tls";

import type { HeaderRule } from "@roost/contract";
import { must, type Logger } from "@roost/kit";

import { nameReading } from "./head-reading.ts";
import { Leaves, type Authority } from "./sandbox-authority.ts";
import { InterceptedConnection, type OpenUpstream } from "./intercepted-connection.ts";

/** Time a guest has to agree on keys in `ms` */
const handshakeTimeoutMs = 10_000;

export interface InterceptorOptions {
  readonly ruleFor: (name: string) => HeaderRule | undefined;
  readonly log: Logger;
}

/**
 * Opens the TLS of a guest's connections to the domains that have rules, as a server that the sandbox's own authority vouches for, and passes its requests on with the rules' headers.
 * HTTP/1.1 on both sides: what a guest sends is parsed and written anew, so a server never sees bytes of the guest's but bodies, and sees where each request ends as
 * this does. HTTP/2 would be a second parser for the same; clients that speak nothing else are refused when they greet.
 */
export class Interceptor {
  readonly #options: InterceptorOptions;
  readonly #server: Server;
  /** By the two ports, which tell a guest's connections apart: the socket that the server makes of one is not the one that it was given */
  readonly #awaited = new Map<string, InterceptedConnection>();
  readonly #connections = new WeakMap<object, InterceptedConnection>();
  #authority: Authority | null = null;
  #leaves: Leaves | null = null;

  constructor(options: InterceptorOptions) {
    this.#options = options;
    this.#server = createServer({
      ALPNProtocols: ["http/1.1"],
      handshakeTimeout: handshakeTimeoutMs,
      requestTimeout: 0, // of a whole request: uploads take as long as they take
      keepAliveTimeout: 0, // connections have a deadline of their own
      minVersion: "TLSv1.2",
      SNICallback: (serverName, done) => {
        this.#contextFor(serverName).then(
          (context) => done(null, context),
          (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
        );
      },
    });
    this.#server.on("secureConnection", (socket) => this.#secured(socket));
    this.#server.on("tlsClientError", (error) =>
      options.log.debug({ err: error }, "a guest did not agree to a connection that is opened for it"),
    );
    this.#server.on("request", (request, response) => this.#request(request, response));
    this.#server.on("checkContinue", (request: IncomingMessage, response: ServerResponse) => this.#request(request, response));
    this.#server.on("upgrade", (request: IncomingMessage, socket: Duplex, head: Buffer) => {
      must(this.#connections.get(request.socket), "the connection of a request").upgrade(request, socket, head);
    });
  }

  /** Signs with another authority from now on; connections that are open stay as they are. */
  setAuthority(authority: Authority | null): void {
    if (authority?.certificatePem === this.#authority?.certificatePem) return;
    this.#authority = authority;
    this.#leaves = authority === null ? null : new Leaves(authority);
  }

  /** Takes a connection over whose greeting, which is the first that it reads, says `name`. */
  take(guest: Socket, name: string, open: OpenUpstream): InterceptedConnection {
    const { ruleFor, log } = this.#options;
    const connection = new InterceptedConnection({ name, guest, rule: () => ruleFor(name), open, log });
    const key = keyOf(guest);
    this.#awaited.set(key, connection);
    guest.once("close", () => {
      if (this.#awaited.get(key) === connection) this.#awaited.delete(key);
      connection.close();
    });
    this.#server.emit("connection", guest);
    return connection;
  }

  async #contextFor(serverName: string) {
    const reading = nameReading(serverName);
    if (this.#leaves === null || reading.kind !== "name" || this.#options.ruleFor(reading.name) === undefined)
      throw new Error("there is no rule for this name");
    return this.#leaves.contextFor(reading.name);
  }

  #secured(socket: TLSSocket): void {
    const key = keyOf(socket);
    const connection = this.#awaited.get(key);
    this.#awaited.delete(key);
    const reading = nameReading(typeof socket.servername === "string" ? socket.servername : "");
    // The greeting was read twice, by two readers: that they agree is what the rest relies on
    if (connection === undefined || reading.kind !== "name" || reading.name !== connection.name) return void socket.destroy();
    this.#connections.set(socket, connection);
    connection.begin(socket);
  }

  #request(request: IncomingMessage, response: ServerResponse): void {
    must(this.#connections.get(request.socket), "the connection of a request").request(request, response);
  }
}

function keyOf({ localPort, remotePort }: Pick<Socket, "localPort" | "remotePort">): string {
  return `${localPort} ${remotePort}`;
}
