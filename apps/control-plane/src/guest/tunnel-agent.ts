import { Agent, type ClientRequest, type ClientRequestArgs } from "node:http";
import type { Socket } from "node:net";
import type { Duplex } from "node:stream";

import { guestAgentPort, type GuestTunnels } from "@roost/contract";
import { second } from "@roost/kit";

/**
 * How long an unused connection is kept in `ms`. An open tunnel counts as activity of the sandbox, so this is how much
 * longer than its last use a sandbox lives; and the guest closes idle connections after 5 s, so we must be first.
 */
export const idleConnectionMs = 3 * second;
/** Unused connections kept per sandbox */
const idleConnectionsMax = 4;
/** Longest wait for a tunnel in `ms` */
const connectTimeoutMs = 10 * second;

type SocketLike = Duplex & Partial<Pick<Socket, "readyState" | "setNoDelay" | "setKeepAlive" | "ref" | "unref" | "setTimeout">>;

/** Node's HTTP client over tunnels into one sandbox: a request's connection is a tunnel to the guest agent's port. */
export class TunnelAgent extends Agent {
  readonly #tunnels: GuestTunnels;
  readonly #sandboxId: string;
  readonly #open = new Set<Duplex>();
  readonly #idleTimers = new WeakMap<Duplex, NodeJS.Timeout>();
  #isDestroyed = false;

  constructor(tunnels: GuestTunnels, sandboxId: string) {
    super({ keepAlive: true, maxFreeSockets: idleConnectionsMax, scheduling: "lifo" });
    this.#tunnels = tunnels;
    this.#sandboxId = sandboxId;
  }

  // The declared type wants a socket at once; Node also takes it through the callback (http.Agent#createConnection).
  override createConnection(_options: ClientRequestArgs, callback?: (error: Error | null, stream: Duplex) => void): undefined {
    const done = callback as (error: Error | null, stream?: Duplex) => void;
    this.#tunnels.connect(this.#sandboxId, guestAgentPort, AbortSignal.timeout(connectTimeoutMs)).then(
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
        this.#open.add(tunnel);
        tunnel.once("close", () => this.#open.delete(tunnel));
        done(null, tunnel);
      },
      (error: unknown) => done(error instanceof Error ? error : new Error(String(error))),
    );
  }

  override keepSocketAlive(socket: Duplex): void {
    const isKept: unknown = super.keepSocketAlive(socket); // declared void; Node drops the socket when it is not true
    if (isKept !== true || this.#isDestroyed) return false as never;
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
