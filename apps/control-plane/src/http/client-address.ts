import type { IncomingMessage } from "node:http";

import ipaddr from "ipaddr.js";

import type { AddressRange } from "../channels/address-ranges.ts";

/** Hops of `X-Forwarded-For` that are looked at, from the nearest */
const hopsMax = 16;

/**
 * Where requests come from. That is who the connection is from, unless that is a proxy of the operator's own: what it says of its client is then
 * believed, and so on. What else is in `X-Forwarded-For` was written by whoever wanted to be somebody else.
 */
export class ClientAddresses {
  readonly #proxies: readonly AddressRange[];

  constructor(proxies: readonly AddressRange[]) {
    this.#proxies = proxies;
  }

  /** As far as it can be known; null: the connection is gone. */
  of(request: IncomingMessage): string | null {
    const peer = request.socket.remoteAddress;
    if (peer === undefined) return null;
    const said = [request.headers["x-forwarded-for"] ?? []].flat().join(",").split(",");
    let address = plain(peer) ?? peer;
    for (let hop = 0; hop < hopsMax && this.#isProxy(address); hop += 1) {
      const before = plain((said.pop() ?? "").trim());
      if (before === undefined) break;
      address = before;
    }
    return address;
  }

  #isProxy(address: string): boolean {
    if (this.#proxies.length === 0 || !ipaddr.isValid(address)) return false;
    const parsed = ipaddr.parse(address);
    return this.#proxies.some((range) => range[0].kind() === parsed.kind() && parsed.match([range[0], range[1]] as never));
  }
}

/** One way to write each address; undefined: it is none. */
function plain(text: string): string | undefined {
  const bare = text.replace(/^\[(.*)\]$/, "$1").replace(/%.*$/, "");
  return ipaddr.isValid(bare) ? ipaddr.process(bare).toString() : undefined;
}
