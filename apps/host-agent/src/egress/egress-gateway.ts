import { createServer, type Server, type Socket } from "node:net";

import { isSameProxy, matchesDomain } from "@roost/contract";
import { Cleanup, must, type Logger } from "@roost/kit";

import { formatAddress } from "../network/address-block.ts";
import { allowsAddress, type EgressRules } from "../network/egress-rules.ts";
import type { EgressListeners } from "../network/policy.ts";
import { connectThrough, type ProxyAddresses } from "./egress-proxy.ts";
import { openNamed, refuseNamed, type NamedProtocol } from "./named-connection.ts";
import { originalDestination, type Destination } from "./original-destination.ts";
import type { PublicAddresses } from "./public-addresses.ts";
import { Refusal, relay, type Relay, type RelayOpening, type RelayTarget } from "./relay.ts";

/** Connections of one guest at once, of all listeners together. Above it new ones are reset: each holds buffers of the host agent's. */
export const connectionsMax = 512;

export interface EgressGatewayOptions {
  /** The host's end of the slot's veth pair: where it listens */
  readonly hostAddress: string;
  /** The slot's end: the only one who is served */
  readonly innerAddress: string;
  readonly rules: EgressRules;
  /** Addresses that a guest may reach at all */
  readonly addresses: PublicAddresses;
  /** Addresses that a proxy may have */
  readonly proxyAddresses: ProxyAddresses;
  readonly log: Logger;
}

/**
 * Carries connections of one guest that the kernel alone cannot: those that are allowed by name, and those that leave through a proxy.
 *
 * By name: the slot sends its connections to ports 80 and 443 here; the first bytes say which name they are for (`Host`, SNI), the policy says whether that is
 * allowed, and the host, not the guest, says which address has that name. Through a proxy: the host's table diverts all TCP that the slot's rules let pass here,
 * and the kernel knows where it was going. The bytes then pass as they are: TLS stays between the guest and the server.
 */
export class EgressGateway {
  readonly #options: EgressGatewayOptions;
  readonly #servers: Server[] = [];
  readonly #relays = new Set<Relay>();
  #rules: EgressRules;

  private constructor(options: EgressGatewayOptions) {
    this.#options = options;
    this.#rules = options.rules;
  }

  static async open(options: EgressGatewayOptions): Promise<{ readonly gateway: EgressGateway; readonly listeners: EgressListeners }> {
    await using cleanup = new Cleanup();
    const gateway = new EgressGateway(options);
    cleanup.defer("close the gateway", () => gateway.close());
    const httpPort = await gateway.#listen((socket) => gateway.#relayNamed(socket, "http"));
    const tlsPort = await gateway.#listen((socket) => gateway.#relayNamed(socket, "tls"));
    const divertedPort = await gateway.#listen((socket) => gateway.#relayDiverted(socket));
    return cleanup.handOver({ gateway, listeners: { httpPort, tlsPort, divertedPort } });
  }

  async #listen(begin: (socket: Socket) => Relay): Promise<number> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => this.#accept(socket, begin));
    this.#servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: this.#options.hostAddress, port: 0 }, resolve);
    });
    server.on("error", (error) => this.#options.log.warn({ err: error }, "a listener for connections of a guest failed to accept one"));
    const address = server.address();
    return must(typeof address === "object" ? address?.port : undefined, "the port of a listener");
  }

  #accept(socket: Socket, begin: (socket: Socket) => Relay): void {
    socket.on("error", () => undefined); // it shows as its close
    if (socket.remoteAddress !== this.#options.innerAddress || this.#relays.size >= connectionsMax) {
      socket.resetAndDestroy();
      return;
    }
    const begun = begin(socket);
    this.#relays.add(begun);
    void begun.ended.then(() => this.#relays.delete(begun));
  }

  #relayNamed(socket: Socket, protocol: NamedProtocol): Relay {
    const { addresses, proxyAddresses, log } = this.#options;
    const deps = {
      allowsName: (name: string) => this.#allowsName(name),
      findAddresses: (name: string) => addresses.find(name),
      proxy: () => this.#rules.proxy,
      proxyAddresses,
    };
    return relay(socket, {
      open: (signal) => openNamed(socket, protocol, deps, signal),
      isAllowed: (target) => this.#isAllowed(target),
      refuse: (error) => refuseNamed(socket, protocol, error),
      log,
    });
  }

  #relayDiverted(socket: Socket): Relay {
    const destination = originalDestination(socket);
    return relay(socket, {
      open: (signal) => this.#openDiverted(destination, signal),
      isAllowed: (target) => this.#isAllowed(target),
      refuse: () => void socket.resetAndDestroy(), // what it speaks is not known
      log: this.#options.log,
    });
  }

  async #openDiverted(destination: Destination | undefined, signal: AbortSignal): Promise<RelayOpening> {
    const { addresses, proxyAddresses } = this.#options;
    const { proxy } = this.#rules;
    if (destination === undefined || proxy === null) throw new Refusal("the connection was not diverted to a proxy");
    const target = { name: undefined, address: destination.address, proxy };
    // The kernel judged it already; here it is judged again, because the proxy would go anywhere
    if (!this.#isAllowed(target) || !addresses.isPublic(destination.address)) throw new Refusal("the address is not allowed");
    const host = formatAddress(destination.address);
    const server = await connectThrough(proxy, { host, port: destination.port }, proxyAddresses, signal);
    return { target, server, head: Buffer.alloc(0) };
  }

  #allowsName(name: string): boolean {
    return this.#rules.domains.some((domain) => matchesDomain(name, domain));
  }

  /** Whether the rules allow a connection, by name or by address, the way it goes. */
  #isAllowed({ name, address, proxy }: RelayTarget): boolean {
    const rules = this.#rules;
    if (!isSameProxy(proxy, rules.proxy)) return false;
    if (name !== undefined && this.#allowsName(name)) return true;
    return address === undefined ? rules.denied.length === 0 : allowsAddress(rules, address);
  }

  /** Puts other rules in force. Connections that they do not allow, or send another way, end. */
  setRules(rules: EgressRules): void {
    this.#rules = rules;
    for (const each of this.#relays) {
      // One that is not connected yet will be judged by these rules
      if (each.target !== undefined && !this.#isAllowed(each.target)) each.end();
    }
  }

  /** Ends all connections, and listens no more. Idempotent. */
  async close(): Promise<void> {
    const closed = this.#servers.splice(0).map(
      (server) =>
        new Promise<void>((resolve) => {
          server.close(() => resolve());
        }),
    );
    for (const each of this.#relays) each.end();
    await Promise.all(closed);
  }
}
