import ipaddr from "ipaddr.js";

/** An address and how many of its first bits count: `10.0.0.0/8`. */
export type AddressRange = readonly [ipaddr.IPv4 | ipaddr.IPv6, number];

/** `10.0.0.0/8,fd00::/8`; an address alone is its own range. Throws on anything else. */
export function parseRanges(text: string): AddressRange[] {
  return text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => {
      // ipaddr.js also takes 10.1 for 10.0.0.1 and 010.0.0.1 for 8.0.0.1: more likely a slip than meant
      const [address = "", bits] = part.split("/");
      if (!ipaddr.IPv4.isValidFourPartDecimal(address) && !ipaddr.IPv6.isValid(address)) throw new Error(`${part} is no address range`);
      const parsed = ipaddr.parse(address);
      return bits === undefined ? [parsed, parsed.kind() === "ipv4" ? 32 : 128] : ipaddr.parseCIDR(part);
    });
}
