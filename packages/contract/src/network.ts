import { z } from "zod";

import { egressProxyCredentialBytesMax, maskRequestHostLengthMax, networkEntriesMax } from "./limits.ts";

/**
 * What a sandbox's guest may reach, and who reaches its ports.
 *
 * Of a connection out of the guest, the first of these that applies decides: ranges that no guest reaches (private, link-local, the
 * host's own, and everything that is IPv6) are refused; `allow_out` allows; `deny_out` refuses; everything else is allowed. A domain in
 * `allow_out` is matched with the name that a connection to port 80 or 443 asks for (HTTP `Host`, TLS SNI), never with DNS answers.
 * TCP that is allowed leaves through `egress_proxy`, where there is one; everything else leaves as usual.
 */

/** All of IPv4: what `allow_internet: false` denies. */
export const allTraffic = "0.0.0.0/0";

/** IPv4 addresses from `first` to `last`, both included, as numbers. */
export interface AddressRange {
  readonly first: number;
  readonly last: number;
}

const octet = "(?:25[0-5]|2[0-4]\\d|1\\d\\d|[1-9]?\\d)";
const rangePattern = new RegExp(`^(${octet})\\.(${octet})\\.(${octet})\\.(${octet})(?:/(3[0-2]|[12]?\\d))?$`);

/** The range of an IPv4 address or CIDR block (bits below the prefix do not matter); undefined when the text is neither. */
export function parseAddressRange(text: string): AddressRange | undefined {
  const match = rangePattern.exec(text);
  if (match === null) return undefined;
  const [, a, b, c, d, prefix] = match;
  const address = [a, b, c, d].reduce((value, part) => value * 256 + Number(part), 0);
  const size = 2 ** (32 - Number(prefix ?? 32));
  const first = Math.floor(address / size) * size;
  return { first, last: first + size - 1 };
}

/** Two labels at least, and the last is no number: a mistyped address is not a domain. RFC 1035 limits, and `_`, which is in use. */
const domainPattern = /^(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)+(?!\d+$)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;
/** RFC 1035: of a whole name */
const domainLengthMax = 253;

export function isDomain(text: string): boolean {
  return text.length <= domainLengthMax && domainPattern.test(text);
}

/** Whether a host name is meant by a domain of a policy: the very name, or with `*.` each name below it. Upper and lower case are the same. */
export function matchesDomain(hostName: string, domain: string): boolean {
  const name = hostName.toLowerCase().replace(/\.$/, "");
  return domain.startsWith("*.") ? name.endsWith(domain.slice(1)) : name === domain;
}

const ipv6Schema = z.union([z.ipv6(), z.cidrv6()]);
const isIpv6 = (text: string) => ipv6Schema.safeParse(text).success;

const allowOutEntrySchema = z
  .string()
  .max(domainLengthMax)
  .trim()
  .toLowerCase()
  .refine((text) => !isIpv6(text), "sandboxes have no IPv6, so it cannot be allowed")
  .refine(
    (text) => isIpv6(text) || parseAddressRange(text) !== undefined || isDomain(text),
    "must be an IPv4 address, a CIDR block such as 203.0.113.0/24, or a domain such as example.com or *.example.com",
  );

const denyOutEntrySchema = z
  .string()
  .max(domainLengthMax)
  .trim()
  .toLowerCase()
  .refine((text) => !isDomain(text), "a domain cannot be denied, only allowed: deny addresses or CIDR blocks")
  .refine(
    (text) => isDomain(text) || isIpv6(text) || parseAddressRange(text) !== undefined,
    "must be an IP address or a CIDR block such as 203.0.113.0/24",
  );

export const allowOutSchema = z
  .array(allowOutEntrySchema)
  .max(networkEntriesMax)
  .describe("IPv4 addresses, CIDR blocks and domains (`*.` for all below one) that are allowed even where `deny_out` has them");
export const denyOutSchema = z.array(denyOutEntrySchema).max(networkEntriesMax).describe("IP addresses and CIDR blocks that are denied");

const portMax = 65_535;
/** Of `host:port` */
const proxyAddressLengthMax = domainLengthMax + 6;

/** Host and port of an egress proxy; undefined when the text is not `host:port` with an IPv4 address or a domain. */
export function parseProxyAddress(text: string): { readonly host: string; readonly port: number } | undefined {
  const match = /^([^:]+):([1-9]\d{0,4})$/.exec(text);
  const [, host = "", digits = ""] = match ?? [];
  const port = Number(digits);
  const isHost = isAddress(host) || (isDomain(host) && !host.startsWith("*"));
  return match !== null && isHost && port <= portMax ? { host, port } : undefined;
}

function isAddress(text: string): boolean {
  const range = parseAddressRange(text);
  return range !== undefined && !text.includes("/");
}

const utf8 = new TextEncoder();
const credentialSchema = z
  .string()
  .min(1)
  .max(egressProxyCredentialBytesMax)
  .refine((text) => utf8.encode(text).length <= egressProxyCredentialBytesMax, `at most ${egressProxyCredentialBytesMax} bytes`);

/** `socks5`: RFC 1928 with RFC 1929. `http`: a proxy that is asked with CONNECT, with Basic credentials */
const egressProxyProtocols = ["socks5", "http"] as const;

/** The keys are the same wherever it is written: here, in records of hosts, in `hostagent.v1`. */
export const egressProxySchema = z
  .object({
    protocol: z.enum(egressProxyProtocols).default("socks5"),
    address: z
      .string()
      .max(proxyAddressLengthMax)
      .trim()
      .toLowerCase()
      .refine(
        (text) => parseProxyAddress(text) !== undefined,
        "must be host:port with an IPv4 address or a domain, such as proxy.example.com:1080",
      ),
    username: credentialSchema.optional(),
    /** Never shown again */
    password: credentialSchema.optional(),
  })
  .superRefine(({ protocol, username, password }, context) => {
    if (password !== undefined && username === undefined)
      context.addIssue({ code: "custom", path: ["username"], message: "a password needs a username" });
    if (protocol === "http" && username?.includes(":") === true)
      context.addIssue({ code: "custom", path: ["username"], message: "an HTTP proxy's username has no colon" });
  });
export type EgressProxy = z.output<typeof egressProxySchema>;

/** Whether two policies send connections the same way. */
export function isSameProxy(one: EgressProxy | null, other: EgressProxy | null): boolean {
  if (one === null || other === null) return one === other;
  return (["protocol", "address", "username", "password"] as const).every((key) => one[key] === other[key]);
}

/** `host`, `host:port`, or with `${PORT}` for the port that was asked for. */
export const maskRequestHostSchema = z
  .string()
  .max(maskRequestHostLengthMax)
  .regex(/^(?:[a-zA-Z0-9._[\]:-]|\$\{PORT\})+$/, "must be a host name, where ${PORT} stands for the port")
  .describe("Host header that the guest's servers see; `${PORT}` stands for the port");

/** The value of a policy's problem is named by whoever reports it, by its path. */
export const domainsNeedDenyAll = `domains are allowed out of what is denied: deny ${allTraffic} (all traffic) beside them`;

export const networkPolicySchema = z
  .object({
    allow_internet: z.boolean().default(true).describe(`false: as if \`deny_out\` had ${allTraffic}`),
    allow_out: allowOutSchema.default([]),
    deny_out: denyOutSchema.default([]),
    is_public: z.boolean().default(false).describe("Whether its ports, but not the guest agent's, are open without the traffic token"),
    mask_request_host: maskRequestHostSchema.nullable().default(null),
    egress_proxy: egressProxySchema.nullable().default(null).describe("Where TCP leaves through, once it is allowed; null: directly"),
  })
  .superRefine((policy, context) => {
    const index = policy.allow_out.findIndex(isDomain);
    if (index === -1 || deniesAll(policy)) return;
    context.addIssue({ code: "custom", path: ["allow_out", index], message: domainsNeedDenyAll });
  });
export type NetworkPolicy = z.output<typeof networkPolicySchema>;

/** Whether everything is denied that is not allowed by name. */
export function deniesAll(policy: Pick<NetworkPolicy, "allow_internet" | "deny_out">): boolean {
  return !policy.allow_internet || policy.deny_out.some((entry) => entry.endsWith("/0") && !isIpv6(entry));
}

/** The half of a policy that a host enforces: what the guest may reach. Empty: the internet. */
export interface EgressPolicy {
  readonly allowOut: readonly string[];
  /** IPv4 only */
  readonly denyOut: readonly string[];
  /** Where TCP leaves through, once it is allowed; null: directly */
  readonly proxy: EgressProxy | null;
}

export function egressOf(policy: NetworkPolicy): EgressPolicy {
  const denied = policy.deny_out.filter((entry) => !isIpv6(entry)); // denied to everyone as it is
  return {
    allowOut: policy.allow_out,
    denyOut: policy.allow_internet || denied.includes(allTraffic) ? denied : [allTraffic, ...denied],
    proxy: policy.egress_proxy,
  };
}
