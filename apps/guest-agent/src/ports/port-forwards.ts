import { createServer, connect, type Server, type Socket } from "node:net";

import type { Logger } from "@roost/kit";

/** Ports forwarded at once; more loopback listeners stay private. */
export const forwardsMax = 64;

/** Connections at once through one forwarded port; more are refused. */
export const forwardConnectionsMax = 256;

export interface LoopbackFamilies {
  readonly ipv4: boolean;
  readonly ipv6: boolean;
}

interface Forward {
  readonly server: Server;
  readonly sockets: Set<Socket>;
  target: "127.0.0.1" | "::1";
}

/**
 * Makes servers that listen only on the loopback address reachable on the guest's outer address, where the host
 * dials: a dev server on localhost works through the port proxy. The host decides who may dial.
 *
 * The launcher looks for listeners (cheaper there than here) and tells changes only, so nothing runs here while none
 * change. Redirecting in the kernel was not taken: it needs nftables in every guest, and has no answer for ::1.
 */
export class PortForwards {
  readonly #outerAddress: string;
  readonly #agentPort: number;
  readonly #log: Logger;
  readonly #forwards = new Map<number, Forward>();

  constructor(options: { readonly outerAddress: string; readonly agentPort: number; readonly log: Logger }) {
    this.#outerAddress = options.outerAddress;
    this.#agentPort = options.agentPort;
    this.#log = options.log;
  }

  get ports(): number[] {
    return [...this.#forwards.keys()];
  }

  /** A port listens on these loopback addresses now; on none means that it stopped. */
  onListener(port: number, families: LoopbackFamilies): void {
    const known = this.#forwards.get(port);
    if (!families.ipv4 && !families.ipv6) {
      if (known !== undefined) this.#stop(port, known);
      return;
    }
    const target = families.ipv4 ? "127.0.0.1" : "::1";
    if (known !== undefined) known.target = target;
    else if (port !== this.#agentPort && this.#forwards.size < forwardsMax) this.#start(port, target);
  }

  close(): void {
    for (const [port, forward] of this.#forwards) this.#stop(port, forward);
  }

  #start(port: number, target: Forward["target"]): void {
    const server = createServer({ allowHalfOpen: true });
    const forward: Forward = { server, sockets: new Set(), target };
    this.#forwards.set(port, forward);
    server.maxConnections = forwardConnectionsMax;
    server.on("connection", (outer) => this.#join(port, forward, outer));
    server.on("error", (error) => {
      // Most often the same server listens on the outer address too, so there is nothing to forward.
      this.#log.debug({ err: error, port }, "port not forwarded");
      this.#stop(port, forward);
    });
    server.listen({ host: this.#outerAddress, port });
  }

  #join(port: number, forward: Forward, outer: Socket): void {
    const inner = connect({ host: forward.target, port, allowHalfOpen: true });
    for (const socket of [outer, inner]) {
      forward.sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("close", () => forward.sockets.delete(socket));
    }
    // Either end breaking breaks the other, so that neither side takes a cut answer for a whole one.
    outer.on("error", () => inner.resetAndDestroy());
    inner.on("error", () => outer.resetAndDestroy());
    outer.pipe(inner);
    inner.pipe(outer);
  }

  #stop(port: number, forward: Forward): void {
    if (this.#forwards.get(port) === forward) this.#forwards.delete(port);
    forward.server.close();
    for (const socket of forward.sockets) socket.destroy();
  }
}
