import { createServer, type Server, type Socket } from "node:net";

import { findHeaderRule, isSameProxy, matchesDomain } from "@roost/contract";
import { Cleanup, must, type Logger } from "@roost/kit";

import { formatAddress } from "../network/address-block.ts";
import { dialOneOf } from "../network/dial.ts";
import { allowsAddress, hasHeaderRules, type EgressRules } from "../network/egress-rules.ts";
import type { EgressListeners } from "../network/policy.ts";
import { readServerName } from "./client-hello.ts";
import { connectThrough, type ProxyAddresses } from "./egress-proxy.ts";
import { Interceptor } from "./interceptor.ts";
import { NameServer } from "./name-server.ts";
import {
  connectToNamed,
  openNamed,
  peekName,
  refuseNamed,
  type NamedConnectionDependencies,
  type NamedProtocol,
} from "./named-connection.ts";
import { originalDestination, type Destination } from "./original-destination.ts";
import type { PublicAddresses } from "./public-addresses.ts";
import { asItIs, Refusal, relay, type Relay, type RelayOpening, type RelayTarget } from "./relay.ts";
import type { UpstreamTrust } from "./upstream-trust.ts";

const tlsPort = 443;

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
  /** Whom the host believes that it is a server, where it opens TLS */
  readonly upstreamTrust: UpstreamTrust;
  readonly log: Logger;
}

/**
 * Carries connections of one guest that the kernel alone cannot: those that are allowed by name, and those that leave through a proxy.
 *
 * By name: the slot sends its connections to ports 80 and 443 here, and its questions to the resolvers; the first bytes say which name they are for (`Host`, SNI), the policy says whether that is
 * allowed, and the host, not the guest, says which address has that name. Through a proxy: the host's table diverts all TCP that the slot's rules let pass here,
 * and the kernel knows where it was going. The bytes then pass as they are: TLS stays between the guest and the server, but for
 * domains with rules for headers, where it is opened (`interceptor.ts`). For these the host's table diverts connections to port 443, too: only their names tell which they are.
 */
export class EgressGateway {
  readonly #options: EgressGatewayOptions;
  readonly #servers: Server[] = [];
  readonly #relays = new Set<Relay>();
  #nameServer: NameServer | undefined;
  readonly #interceptor: Interceptor;
  #rules: EgressRules;

  private constructor(options: EgressGatewayOptions) {
    this.#options = options;
    this.#rules = options.rules;
    this.#interceptor = new Interceptor({ ruleFor: (name) => findHeaderRule(this.#rules.headerRules, name), log: options.log });
    this.#interceptor.setAuthority(options.rules.authority);
  }

  static async open(options: EgressGatewayOptions): Promise<{ readonly gateway: EgressGateway; readonly listeners: EgressListeners }> {
    await using cleanup = new Cleanup();
    const gateway = new EgressGateway(options);
    cleanup.defer("close the gateway", () => gateway.close());
    const httpPort = await gateway.#listen((socket) => gateway.#relayNamed(socket, "http"));
    const tlsPort = await gateway.#listen((socket) => gateway.#relayNamed(socket, "tls"));
    const divertedPort = await gateway.#listen((socket) => gateway.#relayDiverted(socket));
    const dnsPort = await gateway.#answerNames();
    return cleanup.handOver({ gateway, listeners: { httpPort, tlsPort, divertedPort, dnsPort } });
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

  async #answerNames(): Promise<number> {
    const { hostAddress, innerAddress, addresses, log } = this.#options;
    const { server, port } = await NameServer.open({
      hostAddress,
      innerAddress,
      allowsName: (name) => this.#allowsName(name),
      findAddresses: (name) => addresses.find(name),
      log,
    });
    this.#nameServer = server;
    return port;
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
    const { log } = this.#options;
    return relay(socket, {
      open: (signal) => openNamed(socket, protocol, this.#namedDependencies(socket), signal),
      isAllowed: (target) => this.#isAllowed(target),
      refuse: (error) => refuseNamed(socket, protocol, error),
      log,
    });
  }

  #namedDependencies(socket: Socket): NamedConnectionDependencies {
    const { addresses, proxyAddresses } = this.#options;
    return {
      allowsName: (name) => this.#allowsName(name),
      findAddresses: (name) => addresses.find(name),
      proxy: () => this.#rules.proxy,
      proxyAddresses,
      intercept: (name, head) => this.#intercept(socket, name, head),
    };
  }

  /**
   * Opens the TLS of a connection to a name that has a rule. Which address the guest chose does not matter, nor is it asked: credentials go to where the host finds that name, if
   * the policy allows that, and to a server that proves to have it.
   */
  #intercept(socket: Socket, name: string, head: Buffer): RelayOpening | undefined {
    if (!this.#hasRule(name)) return undefined;
    const tls = { name, isOpened: true };
    const open = async (signal: AbortSignal) => {
      const { target: connected, server } = await connectToNamed(name, tlsPort, this.#namedDependencies(socket), signal);
      const target = { ...connected, tls };
      if (this.#isAllowed(target)) return { target, socket: server, trust: this.#options.upstreamTrust };
      server.destroy();
      throw new Refusal(`the network policy of this sandbox does not allow ${name}`);
    };
    return {
      target: undefined,
      join: () => {
        socket.unshift(head);
        const connection = this.#interceptor.take(socket, name, open);
        return () => (this.#hasRule(name) ? connection.targets : [{ name, address: undefined, proxy: null, tls }]);
      },
      abandon: () => undefined,
    };
  }

  #relayDiverted(socket: Socket): Relay {
    const destination = originalDestination(socket);
    return relay(socket, {
      open: (signal) => this.#openDiverted(socket, destination, signal),
      isAllowed: (target) => this.#isAllowed(target),
      refuse: () => void socket.resetAndDestroy(), // what it speaks is not known
      log: this.#options.log,
    });
  }

  async #openDiverted(socket: Socket, destination: Destination | undefined, signal: AbortSignal): Promise<RelayOpening> {
    const { addresses, proxyAddresses } = this.#options;
    const { proxy, headerRules } = this.#rules;
    const mayHaveRule = destination?.port === tlsPort && hasHeaderRules(headerRules);
    if (destination === undefined || (proxy === null && !mayHaveRule)) throw new Refusal("the connection was not diverted to a proxy");
    const { name, head } = mayHaveRule ? await peekName(socket, readServerName) : { name: undefined, head: Buffer.alloc(0) };
    const tls = mayHaveRule ? { name, isOpened: false } : ("unread" as const);
    const intercepted = name === undefined ? undefined : this.#intercept(socket, name, head);
    if (intercepted !== undefined) return intercepted;
    const target = { name: undefined, address: destination.address, proxy, ...(destination.port === tlsPort && { tls }) };
    // The kernel judged it already; here it is judged again, because the proxy would go anywhere
    if (!this.#isAllowed(target) || !addresses.isPublic(destination.address)) throw new Refusal("the address is not allowed");
    const host = formatAddress(destination.address);
    const server =
      proxy === null
        ? await dialOneOf([host], destination.port, signal)
        : await connectThrough(proxy, { host, port: destination.port }, proxyAddresses, signal);
    return asItIs(socket, server, target, head);
  }

  #allowsName(name: string): boolean {
    return this.#rules.domains.some((domain) => matchesDomain(name, domain));
  }

  #hasRule(name: string): boolean {
    return findHeaderRule(this.#rules.headerRules, name) !== undefined;
  }

  /** Whether the rules allow a connection, by name or by address, the way it goes. */
  #isAllowed({ name, address, proxy, tls }: RelayTarget): boolean {
    const rules = this.#rules;
    if (tls === "unread" ? hasHeaderRules(rules.headerRules) : tls?.name !== undefined && tls.isOpened !== this.#hasRule(tls.name))
      return false;
    if (!isSameProxy(proxy, rules.proxy)) return false;
    if (name !== undefined && this.#allowsName(name)) return true;
    return address === undefined ? rules.denied.length === 0 : allowsAddress(rules, address);
  }

  /** Puts other rules in force. Connections that they do not allow, or send another way, end. */
  setRules(rules: EgressRules): void {
    this.#rules = rules;
    this.#interceptor.setAuthority(rules.authority);
    for (const each of this.#relays) {
      // One that is not connected yet will be judged by these rules
      if (!each.targets.every((target) => this.#isAllowed(target))) each.end();
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
    await Promise.all([...closed, this.#nameServer?.close()]);
  }
}
