import { lookup as dnsLookup } from "node:dns/promises";
import type { LookupFunction } from "node:net";

import { PlatformError } from "@roost/contract";
import ipaddr from "ipaddr.js";

import type { AddressRange } from "./address-ranges.ts";

/** Every address of a name. Tests have their own. */
export type Resolve = (name: string) => Promise<readonly { readonly address: string; readonly family: number }[]>;

/** Public by their numbers, yet answered by the machine's cloud: metadata and credentials (Azure's host) */
const cloudAddresses: ReadonlySet<string> = new Set(["168.63.129.16"]);

const globalIpv6 = ipaddr.parseCIDR("2000::/3");

const resolveByMachine: Resolve = async (name) => dnsLookup(name, { all: true, verbatim: true });

/**
 * Which addresses users may have requests sent to: public ones, and what the operator allows. A name is resolved once, every address it has must be allowed, and the
 * connection is made to what was checked, not to what the name means a moment later.
 */
export class AddressGuard {
  readonly #allowed: readonly AddressRange[];
  readonly #resolve: Resolve;

  constructor(allowed: readonly AddressRange[], resolve: Resolve = resolveByMachine) {
    this.#allowed = allowed;
    this.#resolve = resolve;
  }

  /** Throws `address_forbidden` for a URL whose host is an address that may not be used. A name is checked when it is connected to. */
  requireUrl(url: URL): void {
    const host = hostOf(url);
    if (ipaddr.isValid(host)) {
      if (!this.isAllowed(host)) throw forbidden(host);
    } else if (!/[a-z]/i.test(host.split(".").at(-1) ?? "")) throw forbidden(host); // neither a name nor an address
  }

  isAllowed(address: string): boolean {
    const bare = address.replace(/%.*$/, ""); // the zone of a link-local address
    if (!ipaddr.isValid(bare)) return false;
    // ::ffff:127.0.0.1 is 127.0.0.1
    const parsed = ipaddr.process(bare);
    if (this.#allowed.some(([range, bits]) => range.kind() === parsed.kind() && parsed.match(range, bits))) return true;
    if (parsed.kind() === "ipv6" && !parsed.match(globalIpv6)) return false; // what is not given out to anybody, such as ::/96
    return parsed.range() === "unicast" && !cloudAddresses.has(parsed.toString());
  }

  /** For `net.connect`: resolves and checks, then connects to just that. */
  readonly lookup: LookupFunction = (name, options, callback) => {
    this.#check(name, Number(options.family ?? 0)).then(
      (addresses) => {
        const [first] = addresses;
        if (options.all === true) callback(null, [...addresses]);
        else callback(null, first.address, first.family);
      },
      (error: NodeJS.ErrnoException) => callback(error, [], 0),
    );
  };

  async #check(name: string, family: number): Promise<[ResolvedAddress, ...ResolvedAddress[]]> {
    // Whether a name is unknown or means a private address is not told apart: who asks could learn what names there are inside
    const resolved = await this.#resolve(name).catch(() => []);
    const [first, ...rest] = resolved.filter((one) => family === 0 || one.family === family);
    if (first === undefined || resolved.some(({ address }) => !this.isAllowed(address))) throw forbidden(name);
    return [first, ...rest];
  }
}

type ResolvedAddress = Awaited<ReturnType<Resolve>>[number];

/** Without the brackets of an IPv6 address and the dot at the end. */
function hostOf(url: URL): string {
  return url.hostname.replace(/^\[(.*)\]$/, "$1").replace(/\.$/, "");
}

function forbidden(host: string): PlatformError {
  const shown = host.slice(0, 253);
  return new PlatformError(
    "address_forbidden",
    `"${shown}" does not lead to a public address; the operator can allow others with ROOST_WEBHOOK_ALLOWED_RANGES`,
  );
}
