import { run } from "@roost/kit";

import { forbiddenMark, goal } from "./attempts.ts";
import { world } from "../network-lab.ts";

/** Table of what was seen, in each namespace where something could arrive. */
const table = "judge";

/** Where packets are watched, and how those that come from the guest are told. */
export interface WatchedPlace {
  /** Undefined: the host's own */
  readonly namespace: string | undefined;
  /** Interface that they come in by */
  readonly from: string;
  /** Rules of nftables that leave out what others send that way */
  readonly except?: readonly string[];
}

async function nft(namespace: string | undefined, input: string): Promise<string> {
  const command = ["nft", "-f", "-"] as const;
  return run(namespace === undefined ? command : ["nsenter", `--net=/run/netns/${namespace}`, ...command], { input });
}

/** Sees every packet that comes in by one interface, before any other rule does. */
export async function watch({ namespace, from, except = [] }: WatchedPlace): Promise<void> {
  await nft(
    namespace,
    `
table inet ${table} {
  set ports { type inet_proto . ipv4_addr . inet_service; flags dynamic; size 65535; }
  set messages { type ipv4_addr . icmp_type; flags dynamic; size 65535; }
  set protocols { type ipv4_addr . inet_proto; flags dynamic; size 65535; }
  set sources { type ipv4_addr; flags dynamic; size 65535; }
  counter ipv6 { }
  chain arrive {
    type filter hook prerouting priority -450; policy accept;
    iifname != "${from}" accept
    meta nfproto ipv6 counter name ipv6 accept
    ${except.map((rule) => `${rule} accept`).join("\n    ")}
    add @sources { ip saddr }
    ip frag-off & 0x1fff != 0 accept
    meta l4proto { tcp, udp } add @ports { meta l4proto . ip daddr . th dport } accept
    meta l4proto icmp add @messages { ip daddr . icmp type } accept
    add @protocols { ip daddr . meta l4proto }
  }
}
`,
  );
}

export async function endWatch({ namespace }: WatchedPlace): Promise<void> {
  await nft(namespace, `delete table inet ${table}\n`);
}

interface Listing {
  readonly nftables: readonly {
    readonly set?: { readonly name: string; readonly elem?: readonly unknown[] };
    readonly counter?: { readonly packets: number };
  }[];
}

/** Numbers of protocols and messages that nftables calls by a name. */
const numbers: Readonly<Record<string, number>> = { "echo-request": 8, "timestamp-request": 13, ipencap: 4, gre: 47, esp: 50, sctp: 132 };

/** One line for each kind of packet that was seen. */
export async function seenAt(place: string, { namespace }: WatchedPlace): Promise<string[]> {
  const command = ["nft", "-j", "list", "table", "inet", table] as const;
  const listing = await run(namespace === undefined ? command : ["nsenter", `--net=/run/netns/${namespace}`, ...command]);
  const { nftables } = JSON.parse(listing) as Listing;
  return nftables.flatMap(({ set, counter }) => {
    if (counter !== undefined) return counter.packets === 0 ? [] : [`${place} ipv6`];
    return (set?.elem ?? []).map((element) => {
      const parts = typeof element === "string" ? [element] : (element as { readonly concat: readonly (string | number)[] }).concat;
      const said = parts.map((part) => numbers[part] ?? part).join(" ");
      if (set?.name === "ports") return `${place} ${said}`;
      return `${place} ${set?.name === "messages" ? "icmp" : set?.name === "sources" ? "source" : "protocol"} ${said}`;
    });
  });
}

/** Packets to the address that is allowed, to a port that is a counterpart's. */
export const allowedByAddress = (place: string) =>
  new RegExp(`^${place} (?:(?:tcp|udp) ${goal.allowed} 2\\d{3}[13579]|(?:icmp|protocol) ${goal.allowed} \\S+)$`);

/** What may be seen out there under the battery's policy, whoever sent it; everything else is a leak. */
export function isAllowedInWorld(line: string): boolean {
  if (line.includes(forbiddenMark)) return false;
  return [
    /^world source 11\.77\.2\.0$/, // the host
    allowedByAddress("world"),
    new RegExp(`^tcp ${goal.allowed} `),
    // What the gateway brings
    new RegExp(`^(world )?tcp (${world.internet}|${world.redirects}) (80|443)\\b`),
    // What the host asks for it
    new RegExp(`^world udp ${world.resolver} 53$`),
    /^asked ([a-z0-9-]+\.)*internet\.test$/,
    /^(udp |ready|$)/, // what was asked stands in the line before
  ].some((pattern) => pattern.test(line));
}
