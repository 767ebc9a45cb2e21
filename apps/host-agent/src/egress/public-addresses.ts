import { Resolver } from "node:dns/promises";
import { networkInterfaces } from "node:os";

import { parseAddressRange, type AddressRange } from "@roost/contract";

import { formatAddress } from "../network/address-block.ts";
import { isInRanges, rangeOf } from "../network/egress-rules.ts";

/** Per question and server in `ms`; asked twice */
const questionTimeoutMs = 3_000;

export interface PublicAddressesOptions {
  /** Servers that are asked: those of the guests */
  readonly resolvers: readonly string[];
  /** CIDR blocks and addresses that no guest reaches */
  readonly denied: readonly string[];
  /** CIDR blocks that the operator allows all the same */
  readonly allowed?: readonly string[];
}

/**
 * Finds the addresses of names for guests, as the host sees them: what a guest believes does not matter. Not by the system's own
 * way (getaddrinfo): that knows names of `/etc/hosts`, and guests could keep its threads busy.
 */
export class PublicAddresses {
  readonly #resolver = new Resolver({ timeout: questionTimeoutMs, tries: 2 });
  readonly #denied: readonly AddressRange[];
  readonly #allowed: readonly AddressRange[];

  constructor(options: PublicAddressesOptions) {
    this.#resolver.setServers(options.resolvers);
    this.#denied = options.denied.map(rangeOf);
    this.#allowed = (options.allowed ?? []).map(rangeOf);
  }

  /**
   * IPv4 addresses of a name, or the one address that is given, without those that no guest reaches, which a name may point to as well. Rejects when the
   * name has none at all.
   */
  async find(host: string): Promise<string[]> {
    const addresses = parseAddressRange(host) === undefined ? await this.#resolver.resolve4(host) : [host];
    return addresses.filter((address) => this.isPublic(rangeOf(address).first));
  }

  /** Whether an address is none that no guest reaches. */
  isPublic(address: number): boolean {
    if (isInRanges(address, this.#allowed)) return true;
    return !isInRanges(address, this.#denied) && !ownAddresses().has(formatAddress(address));
  }
}

/** Read anew each time: a host may get an address at any moment. */
function ownAddresses(): Set<string> {
  return new Set(Object.values(networkInterfaces()).flatMap((list) => (list ?? []).map(({ address }) => address)));
}
