import { Agent, type ClientRequest, type ClientRequestArgs } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

import { second } from "@roost/kit";

/**
 * How long an unused connection is kept in `ms`. An open tunnel counts as activity of the sandbox, so this is how much
 * longer than its last use a sandbox lives; and Node's servers close idle connections after 5 s, so we must be first.
 */
export const idleConnectionMs = 3 * second;
/** How long after `retire` no connection is kept in `ms`: longer than a host waits for them before a pause */
const retireMs = 70 * second;
/** Longest wait for a tunnel in `ms` */
const connectTimeoutMs = 10 * second;

type SocketLike = Duplex & Partial<Pick<Socket, "readyState" | "setNoDelay" | "setKeepAlive" | "ref" | "unref" | "setTimeout">>;

export interface TunnelAgentOptions {
  /** A new tunnel to a port */
  readonly connect: (port: number, signal: AbortSignal) => Promise<Duplex>;
  /** Unused connections that are kept per port; 0: each request has a connection of its own */
  readonly idleConnectionsMax: number;
}

/** Node's HTTP client over tunnels into one sandbox: a request's connection is a tunnel to the port it names. */
export class TunnelAgent extends Agent {
  readonly #connect: TunnelAgentOptions["connect"];
  readonly #open = new Set<Duplex>();
  readonly #idleTimers = new WeakMap<Duplex, NodeJS.Timeout>();
  #isDestroyed = false;
  #retiredUntilMs = 0;

  constructor({ connect, idleConnectionsMax }: TunnelAgentOptions) {
    // Node reads 0 as its default of 256 connections, so that is said with `keepAlive`
    super(idleConnectionsMax > 0 ? { keepAlive: true, maxFreeSockets: idleConnectionsMax, scheduling: "lifo" } : { keepAlive: false });
    this.#connect = connect;
  }

  // The declared type wants a socket at once; Node also takes it through the callback (http.Agent#createConnection).
  override createConnection(options: ClientRequestArgs, callback?: (error: Error | null, stream: Duplex) => void): undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void;
    this.#connect(Number(options.port), AbortSignal.timeout(connectTimeoutMs)).then(
      (tunnel: SocketLike) => {
        if (this.#isDestroyed) {
          tunnel.destroy();
          return done(new Error("the sandbox is gone"));
        }
        tunnel.setNoDelay?.(true);
        // A tunnel is open when we get it; Connect's client looks at `readyState` and else waits for a `connect` event.
        if (tunnel.readyState === undefined) Object.defineProperty(tunnel, "readyState", { value: "open" });
        for (const method of ["setTimeout", "setKeepAlive", "setNoDelay", "ref", "unref"] as const) {
          if (tunnel[method] === undefined) Object.defineProperty(tunnel, method, { value: () => tunnel });
        }
        outliveFailedWrites(tunnel);
        this.#open.add(tunnel);
        tunnel.once("close", () => this.#open.delete(tunnel));
        done(null, tunnel);
      },
      (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
    );
  }

  override keepSocketAlive(socket: Duplex): void {
    const isKept: unknown = super.keepSocketAlive(socket); // declared void; Node drops the socket when it is not true
    if (isKept !== true || this.#isDestroyed || performance.now() < this.#retiredUntilMs) return false as never;
    this.#idleTimers.set(
      socket,
      setTimeout(() => socket.destroy(), idleConnectionMs),
    );
    return true as never;
  }

  override reuseSocket(socket: Duplex, request: ClientRequest): void {
    clearTimeout(this.#idleTimers.get(socket));
    this.#idleTimers.delete(socket);
    super.reuseSocket(socket, request);
  }

  /** Ends unused connections, and for a while keeps none of those that are in use now: their sandbox waits for them to end. */
  retire(): void {
    this.#retiredUntilMs = performance.now() + retireMs;
    for (const sockets of Object.values(this.freeSockets)) for (const socket of sockets ?? []) socket.destroy();
  }

  /** Ends all connections, also those in use. */
  override destroy(): void {
    this.#isDestroyed = true;
    super.destroy();
    for (const tunnel of this.#open) {
      clearTimeout(this.#idleTimers.get(tunnel));
      tunnel.destroy();
    }
  }
}

type WriteCallback = (error?: Error | null) => void;

/**
 * A server may answer and close before it has read all that it is sent. To write to it fails then, for which Node would close the
 * connection with the answer in it unread. So a failed write is no error as long as there may be something to read: the end of that
 * follows in any case, and is one.
 */
function outliveFailedWrites(tunnel: Duplex): void {
  const isOver = () => tunnel.destroyed || tunnel.readableEnded;
  const forgive =
    (callback: WriteCallback): WriteCallback =>
    (error) =>
      callback(isOver() || !isPeerGone(error) ? error : null);
  const write = tunnel._write.bind(tunnel);
  tunnel._write = (chunk, encoding, callback) => write(chunk, encoding, forgive(callback));
  const writev = tunnel._writev?.bind(tunnel);
  if (writev !== undefined) tunnel._writev = (chunks, callback) => writev(chunks, forgive(callback));
}

function isPeerGone(error: NodeJS.ErrnoException | null | undefined): boolean {
  return error?.code === "EPIPE" || error?.code === "ECONNRESET";
}
