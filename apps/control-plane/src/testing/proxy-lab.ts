import { request as httpRequest, type IncomingHttpHeaders, type IncomingMessage, type RequestListener, type Server } from "node:http";
import { createServer as createHttpServer } from "node:http";
import { connect, createServer, type AddressInfo, type Server as NetServer, type Socket } from "node:net";
import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError } from "@roost/contract";
import { silentLogger } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { createFrontedServer } from "../http/fronted-server.ts";
import { PortKeys } from "../proxy/port-keys.ts";
import { Proxy } from "../proxy/proxy.ts";
import { present } from "../sandboxes/present.ts";

/** Connections that may wait to be accepted: tests open 1,000 at once */
const backlog = 2_048;

export interface LabAnswer {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: readonly string[];
  readonly body: string;
  readonly json: () => unknown;
}

export interface LabRequest {
  readonly method?: string;
  readonly path?: string;
  readonly id?: string;
  readonly port?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: string | Buffer;
}

export interface LabOptions {
  readonly idleTimeoutMs?: number;
  readonly headersTimeoutMs?: number;
  readonly openRequestsMax?: number;
}

/** The data plane in front of a control plane that only says so; guests are servers of this process, and tunnels connections to them. */
export class ProxyLab implements AsyncDisposable {
  readonly rows = new Map<string, SandboxRow>();
  readonly tunnels = new Set<Duplex>();
  readonly results: string[] = [];
  /** Dials so far */
  dials = 0;
  /** Reads of a record so far */
  finds = 0;
  /** Reads of all access tokens so far */
  lists = 0;
  wakes = 0;
  wake: (id: string) => Promise<unknown> = async () => undefined;
  /** Runs before each dial */
  onDial: (hostId: string) => void = () => undefined;
  readonly proxy: Proxy;
  readonly portKeys = new PortKeys("11".repeat(32));
  readonly #server: Server;
  readonly #ports = new Map<string, number>();
  readonly #guests = new Set<NetServer>();
  readonly #guestSockets = new Set<Socket>();
  #waiting: (() => void)[] = [];

  private constructor({ idleTimeoutMs, headersTimeoutMs = 15_000, openRequestsMax }: LabOptions) {
    this.proxy = new Proxy({
      find: async (id) => {
        this.finds += 1;
        await new Promise((resolve) => setImmediate(resolve));
        return this.rows.get(id);
      },
      present: (row) => present(row, new Date()),
      listTokenHolders: async () => {
        this.lists += 1;
        await new Promise((resolve) => setTimeout(resolve, 5));
        return [...this.rows.values()].filter((row) => row.is_secure).map((row) => ({ id: row.id, accessToken: row.access_token }));
      },
      wake: async ({ id }) => {
        this.wakes += 1;
        await this.wake(id);
      },
      changed: async (_id, timeoutMs) =>
        new Promise((resolve) => {
          const timer = setTimeout(resolve, timeoutMs);
          this.#waiting.push(() => {
            clearTimeout(timer);
            resolve();
          });
        }),
      tunnelsOf: (hostId) => ({ connect: async (id, port, signal) => this.#dial(hostId, id, port, signal) }),
      portKeys: this.portKeys,
      ...(openRequestsMax === undefined ? {} : { openRequestsMax }),
      metrics: { proxyOpened: () => undefined, proxyClosed: (result) => void this.results.push(result) },
      log: silentLogger,
      ...(idleTimeoutMs === undefined ? {} : { idleTimeoutMs }),
    });
    const control: RequestListener = (request, response) => {
      request.resume();
      request.on("end", () => response.end("control"));
    };
    this.#server = createFrontedServer(
      { maxHeaderSize: 32 * 1024, headersTimeout: headersTimeoutMs, connectionsCheckingInterval: 100, requestTimeout: 0 },
      control,
      this.proxy,
    );
    this.#server.on("upgrade", (request: IncomingMessage, stream: Socket, head: Buffer) => {
      if (this.proxy.claims(request)) this.proxy.upgrade(request, stream, head);
      else stream.end("HTTP/1.1 404 Not Found\r\n\r\n", () => stream.destroy());
    });
  }

  static async start(options: LabOptions = {}): Promise<ProxyLab> {
    const lab = new ProxyLab(options);
    await new Promise<void>((resolve) => {
      lab.#server.listen({ port: 0, host: "127.0.0.1", backlog }, resolve);
    });
    return lab;
  }

  /** The server that all requests come to. */
  get server(): Server {
    return this.#server;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  /** Connections of clients that are open. */
  async clientCount(): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.getConnections((error, count) => (error === null ? resolve(count) : reject(error)));
    });
  }

  /** Adds or changes a sandbox: running, with public ports. */
  sandbox(id: string, more: Partial<SandboxRow> = {}): void {
    const row = {
      id,
      host_id: "host",
      state: "running",
      access_token: `token-of-${id}`,
      auto_resume: false,
      has_memory: true,
      time_started: new Date(1_000),
      time_paused: null,
      time_delete_requested: null,
      time_expires: null,
      expiry_action: "delete",
      is_secure: true,
      network: { is_public: true },
      port_access: {},
      port_key_number: 1,
      traffic_token: null,
      ...this.rows.get(id),
      ...more,
    };
    this.rows.set(id, row as SandboxRow);
    this.proxy.recordChanged(id);
    for (const wake of this.#waiting.splice(0)) wake();
  }

  /** The VM of a sandbox ends, as a host tells it. */
  endVm(id: string, more: Partial<SandboxRow>): void {
    for (const tunnel of this.tunnels) tunnel.destroy(new Error("the VM ended"));
    this.sandbox(id, more);
    this.proxy.drop(id);
  }

  /** What a host says of a sandbox that it does not have. */
  unknownThere(id: string): PlatformError {
    return new PlatformError("sandbox_not_found", `there is no sandbox ${id}`);
  }

  /** An HTTP server on a port of a sandbox. */
  async serve(id: string, port: number, listener: RequestListener): Promise<Server> {
    const server = createHttpServer({ keepAliveTimeout: 60_000 }, listener);
    await this.#listen(id, port, server);
    return server;
  }

  /** Any server on a port of a sandbox. */
  async serveRaw(id: string, port: number, listener: (socket: Socket) => void): Promise<NetServer> {
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      socket.on("error", () => undefined);
      listener(socket);
    });
    await this.#listen(id, port, server);
    return server;
  }

  /** Nothing listens on the port any more; connections are cut. */
  close(id: string, port: number): void {
    this.#ports.delete(`${id}:${port}`);
  }

  /** Options of Node's client for a request by headers. */
  options({ method = "GET", path = "/", id, port = guestAgentPort, headers = {} }: LabRequest) {
    const routing = id === undefined ? {} : { "e2b-sandbox-id": id, "e2b-sandbox-port": String(port) };
    return { host: "127.0.0.1", port: this.port, method, path, agent: false as const, headers: { ...routing, ...headers } };
  }

  async fetch(options: LabRequest): Promise<LabAnswer> {
    return new Promise((resolve, reject) => {
      const request = httpRequest(this.options(options), (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () => {
          const body = Buffer.concat(chunks).toString("latin1");
          const { statusCode = 0, headers, rawHeaders } = response;
          resolve({ status: statusCode, headers, rawHeaders, body, json: () => JSON.parse(body) as unknown });
        });
      });
      request.on("error", reject);
      request.end(options.body);
    });
  }

  /** A connection on which the test writes what it likes. */
  async connect(): Promise<LabConnection> {
    const socket = connect({ host: "127.0.0.1", port: this.port, allowHalfOpen: true });
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return new LabConnection(socket);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.proxy.close();
    this.#server.closeAllConnections();
    for (const connection of [...this.tunnels, ...this.#guestSockets]) connection.destroy();
    for (const server of [this.#server, ...this.#guests]) {
      await new Promise((resolve) => {
        server.close(resolve);
        (server as Partial<Server>).closeAllConnections?.();
      });
    }
  }

  async #listen(id: string, port: number, server: NetServer): Promise<void> {
    server.on("connection", (socket) => {
      this.#guestSockets.add(socket);
      socket.once("close", () => this.#guestSockets.delete(socket));
    });
    await new Promise<void>((resolve) => {
      server.listen({ port: 0, host: "127.0.0.1", backlog }, resolve);
    });
    this.#guests.add(server);
    this.#ports.set(`${id}:${port}`, (server.address() as AddressInfo).port);
  }

  async #dial(hostId: string, id: string, port: number, signal: AbortSignal | undefined): Promise<Duplex> {
    this.dials += 1;
    this.onDial(hostId);
    const { state } = this.rows.get(id) ?? {};
    if (state === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${id}`);
    if (state !== "running") throw new PlatformError("sandbox_wrong_state", `sandbox ${id} is ${state}`);
    const local = this.#ports.get(`${id}:${port}`);
    if (local === undefined) throw new PlatformError("guest_unreachable", "nothing listens there");
    signal?.throwIfAborted();
    const socket = connect({ host: "127.0.0.1", port: local, noDelay: true });
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) => reject(new PlatformError("guest_unreachable", "it cannot be reached", { cause: error })));
    });
    socket.on("error", () => undefined); // as tunnels are: their owner sees `close`
    this.tunnels.add(socket);
    socket.once("close", () => this.tunnels.delete(socket));
    return socket;
  }
}

/** A bare connection that collects what comes. */
export class LabConnection {
  readonly socket: Socket;
  received = "";
  /** `end`: in order, `reset`: cut */
  end: "end" | "reset" | undefined;

  constructor(socket: Socket) {
    this.socket = socket;
    socket.setEncoding("latin1");
    socket.on("data", (text: string) => (this.received += text));
    socket.on("end", () => (this.end ??= "end"));
    socket.on("error", () => (this.end ??= "reset"));
    socket.on("close", () => (this.end ??= "reset"));
  }

  write(text: string): void {
    this.socket.write(text, "latin1");
  }
}
