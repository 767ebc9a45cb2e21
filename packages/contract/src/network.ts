import { z } from "zod";

import { domainLengthMax, isDomain } from "./domains.ts";
import { headerRulesSchema, mapHeaderValues, redactedValue, type HeaderRules } from "./header-rules.ts";
import {
  egressProxyCredentialBytesMax,
  guestConnectionsMax,
  guestConnectionsPerSecMax,
  maskRequestHostLengthMax,
  mbitPerSecMax,
  networkEntriesMax,
} from "./limits.ts";

/**
 * What a sandbox's guest may reach, and who reaches its ports.
 *
 * Of a connection out of the guest, the first of these that applies decides: ranges that no guest reaches (private, link-local, the
 * host's own, and everything that is IPv6) are refused; `allow_out` allows; `deny_out` refuses; everything else is allowed. A domain in
 * `allow_out` is matched with the name that a connection to port 80 or 443 asks for (HTTP `Host`, TLS SNI), never with DNS answers; and with what the
 * guest asks its resolver, which then knows no other names.
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

const limitOf = (max: number, what: string) => z.int().min(1).max(max).nullable().default(null).describe(what);

/** What a guest may use of the network, by connections that it opens. null: what its host lets each guest have, which is also the most it lets any. */
export const networkLimitsSchema = z
  .strictObject({
    out_mbit_per_sec: limitOf(mbitPerSecMax, "What the guest sends, in Mbit per `s`; null: as its host says"),
    in_mbit_per_sec: limitOf(mbitPerSecMax, "What the guest receives, in Mbit per `s`; null: as its host says"),
    connections: limitOf(guestConnectionsMax, "Connections that are open at once; null: as its host says"),
    connections_per_sec: limitOf(guestConnectionsPerSecMax, "New connections in a second; null: as its host says"),
  })
  .describe("Of connections that the guest opens; a host's own limits hold as well");
export type NetworkLimits = z.output<typeof networkLimitsSchema>;

/** The same for a host; null: its own. */
export interface EgressLimits {
  readonly outMbit: number | null;
  readonly inMbit: number | null;
  readonly connections: number | null;
  readonly connectionsPerSec: number | null;
}

export const noLimits: EgressLimits = { outMbit: null, inMbit: null, connections: null, connectionsPerSec: null };

/** `host`, `host:port`, or with `${PORT}` for the port that was asked for. */
export const maskRequestHostSchema = z
  .string()
  .max(maskRequestHostLengthMax)
  .regex(/^(?:[a-zA-Z0-9._[\]:-]|\$\{PORT\})+$/, "must be a host name, where ${PORT} stands for the port")
  .describe("Host header that the guest's servers see; `${PORT}` stands for the port");

/** The value of a policy's problem is named by whoever reports it, by its path. */
export const domainsNeedDenyAll = `domains are allowed out of what is denied: deny ${allTraffic} (all traffic) beside them`;

const egressFields = {
  allow_internet: z.boolean().default(true).describe(`false: as if \`deny_out\` had ${allTraffic}`),
  allow_out: allowOutSchema.default([]),
  deny_out: denyOutSchema.default([]),
  egress_proxy: egressProxySchema.nullable().default(null).describe("Where TCP leaves through, once it is allowed; null: directly"),
  rules: headerRulesSchema.prefault({}),
  limits: networkLimitsSchema.prefault({}),
};

interface NamedEgress {
  readonly allow_internet: boolean;
  readonly allow_out: readonly string[];
  readonly deny_out: readonly string[];
}

function checkDomains(policy: NamedEgress, context: z.core.$RefinementCtx): void {
  const index = policy.allow_out.findIndex(isDomain);
  if (index === -1 || deniesAll(policy)) return;
  context.addIssue({ code: "custom", path: ["allow_out", index], message: domainsNeedDenyAll });
}

/** What the guest may reach and use; what is left out is as if nothing was said. */
export const sandboxEgressBodySchema = z.strictObject(egressFields).superRefine(checkDomains).meta({ id: "SetNetwork" });
export type SandboxEgressBody = z.output<typeof sandboxEgressBodySchema>;
export type SandboxEgressInput = z.input<typeof sandboxEgressBodySchema>;

/** The same as it is shown: without the proxy's password, and without values of headers. */
export const sandboxEgressSchema = z
  .object({
    allow_internet: z.boolean(),
    allow_out: z.array(z.string()),
    deny_out: z.array(z.string()),
    egress_proxy: z.object({ protocol: z.enum(egressProxyProtocols), address: z.string(), username: z.string().optional() }).nullable(),
    rules: z.record(z.string(), z.object({ headers: z.record(z.string(), z.string()).describe(`Values read ${redactedValue}`) })),
    limits: networkLimitsSchema,
  })
  .meta({ id: "SandboxNetwork" });
export type SandboxEgress = z.output<typeof sandboxEgressSchema>;

export function showEgress(policy: Pick<NetworkPolicy, keyof typeof egressFields>): SandboxEgress {
  const { allow_internet, allow_out, deny_out, egress_proxy: proxy, limits } = policy;
  const shown =
    proxy === null
      ? null
      : { protocol: proxy.protocol, address: proxy.address, ...(proxy.username !== undefined && { username: proxy.username }) };
  return { allow_internet, allow_out, deny_out, egress_proxy: shown, rules: showRules(policy.rules), limits };
}

function showRules(rules: HeaderRules): SandboxEgress["rules"] {
  const shown = Object.entries(mapHeaderValues(rules, () => redactedValue));
  return Object.fromEntries(shown.map(([domain, { headers }]) => [domain, { headers: { ...headers } }]));
}

export const networkPolicySchema = z
  .object({
    ...egressFields,
    is_public: z.boolean().default(false).describe("Whether its ports, but not the guest agent's, are open without the traffic token"),
    mask_request_host: maskRequestHostSchema.nullable().default(null),
  })
  .superRefine(checkDomains);
export type NetworkPolicy = z.output<typeof networkPolicySchema>;

/** Whether everything is denied that is not allowed by name. */
export function deniesAll(policy: Pick<NamedEgress, "allow_internet" | "deny_out">): boolean {
  return !policy.allow_internet || policy.deny_out.some((entry) => entry.endsWith("/0") && !isIpv6(entry));
}

/** The half of a policy that a host enforces: what the guest may reach. Empty: the internet. */
export interface EgressPolicy {
  readonly allowOut: readonly string[];
  /** IPv4 only */
  readonly denyOut: readonly string[];
  /** Where TCP leaves through, once it is allowed; null: directly */
  readonly proxy: EgressProxy | null;
  /** Headers to set on its HTTPS requests, with their values */
  readonly rules: HeaderRules;
  readonly limits: EgressLimits;
}

export function egressOf(policy: NetworkPolicy): EgressPolicy {
  const { limits } = policy;
  const denied = policy.deny_out.filter((entry) => !isIpv6(entry)); // denied to everyone as it is
  return {
    allowOut: policy.allow_out,
    denyOut: policy.allow_internet || denied.includes(allTraffic) ? denied : [allTraffic, ...denied],
    proxy: policy.egress_proxy,
    rules: policy.rules,
    limits: {
      outMbit: limits.out_mbit_per_sec,
      inMbit: limits.in_mbit_per_sec,
      connections: limits.connections,
      connectionsPerSec: limits.connections_per_sec,
    },
  };
}
