import { createServer, type Server, type Socket } from "node:net";

import { matchesDomain } from "@roost/contract";
import { Cleanup, must, type Logger } from "@roost/kit";

import { allowsAddress, type EgressRules } from "../network/egress-rules.ts";
import type { EgressListeners } from "../network/policy.ts";
import { relay, type Relay, type RelayProtocol } from "./relay.ts";

/** Connections of one guest at once. Above it new ones are reset: each holds buffers of the host agent's. */
export const connectionsMax = 512;

export interface EgressGatewayOptions {
  /** The host's end of the slot's veth pair: where it listens */
  readonly hostAddress: string;
  /** The slot's end: the only one who is served */
  readonly innerAddress: string;
  readonly rules: EgressRules;
  /** Addresses of a name that a guest may reach at all */
  readonly findAddresses: (name: string) => Promise<readonly string[]>;
  readonly log: Logger;
}

/**
 * Carries the connections of one guest that are allowed by name. The slot sends its connections to ports 80 and 443 here; the first bytes say which name
 * they are for (`Host`, SNI), the policy says whether that is allowed, and the host, not the guest, says which address has that name. The bytes then pass as they
 * are: TLS stays between the guest and the server.
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
    const httpPort = await gateway.#listen("http");
    const tlsPort = await gateway.#listen("tls");
    return cleanup.handOver({ gateway, listeners: { httpPort, tlsPort } });
  }

  async #listen(protocol: RelayProtocol): Promise<number> {
    const server = createServer({ allowHalfOpen: true, pauseOnConnect: true, noDelay: true }, (socket) => this.#accept(socket, protocol));
    this.#servers.push(server);
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ host: this.#options.hostAddress, port: 0 }, resolve);
    });
    server.on("error", (error) => this.#options.log.warn({ err: error }, "a listener for connections by name failed to accept one"));
    const address = server.address();
    return must(typeof address === "object" ? address?.port : undefined, "the port of a listener");
  }

  #accept(socket: Socket, protocol: RelayProtocol): void {
    const { innerAddress, log } = this.#options;
    socket.on("error", () => undefined); // it shows as its close
    if (socket.remoteAddress !== innerAddress || this.#relays.size >= connectionsMax) {
      socket.resetAndDestroy();
      return;
    }
    const begun = relay(socket, protocol, {
      allowsName: (name) => this.#rules.domains.some((domain) => matchesDomain(name, domain)),
      findAddresses: this.#options.findAddresses,
      log,
    });
    this.#relays.add(begun);
    void begun.ended.then(() => this.#relays.delete(begun));
  }

  /** Puts other rules in force. Connections that they do not allow, by name or by address, end. */
  setRules(rules: EgressRules): void {
    this.#rules = rules;
    for (const each of this.#relays) {
      const { target } = each;
      if (target === undefined) continue; // it will be judged by these rules
      const isAllowed = rules.domains.some((domain) => matchesDomain(target.name, domain)) || allowsAddress(rules, target.address);
      if (!isAllowed) each.end();
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
