import { elementsOf, hasHeaderRules, type EgressRules } from "./egress-rules.ts";
import { slotsPerBlock } from "./address-block.ts";
import { limitRules, refuseRules, totalConnectionsRule, type GuestLimits } from "./limits.ts";
import { gatewayAddress, guestAddress, guestMacAddress, tapName } from "./network.ts";

/**
 * The default policy: a guest reaches the internet, and nothing else. Written twice, so that a mistake in one place is
 * not a hole: in the slot's own namespace, which the guest's packets cross first, and in one table on the host. A sandbox's egress
 * policy, which takes from that and never adds to it, is enforced in the slot's namespace.
 *
 * Not reachable: the host under any of its addresses, the network it is plugged into, other guests, private, shared (CGNAT),
 * link-local, metadata, benchmarking, multicast and reserved ranges, and everything that is IPv6. The one exception are the
 * resolvers the operator chose, on port 53. (Documentation ranges are not in the list: nothing is there on the internet, and labs
 * use them to stand for it.)
 */
export const deniedRanges = [
  "0.0.0.0/8",
  "10.0.0.0/8",
  "100.64.0.0/10",
  "127.0.0.0/8",
  "169.254.0.0/16",
  "172.16.0.0/12",
  "192.0.0.0/24",
  "192.88.99.0/24",
  "192.168.0.0/16",
  "198.18.0.0/15",
  "224.0.0.0/4",
  "240.0.0.0/4",
] as const;

/** Set in the host's table: protocol, address and port of each listener that slots may reach. */
const listenerSet = "egress_listeners";

/** Set in the host's table: how many connections each slot has there, by its inner address. */
const countedSet = "connections";

/** Set in the host's table: inner addresses of the slots whose TCP must not leave directly, whatever else is set up. */
const proxiedSet = "egress_proxied";

/** Set in the host's table: inner addresses of the slots of which nothing leaves directly to port 443: the host agent sets headers there. */
const openedSet = "egress_opened";

/** Map in the host's table: where that goes instead, by the slot's inner address. */
const openedMap = "egress_opened_to";

/** Map in the host's table: where the TCP of a slot goes instead, by its inner address. */
const divertedMap = "egress_diverted";

/** The table in each slot's namespace. */
const slotTable = "roost";

/** Ports on which a connection says which name it is for, in the clear: HTTP, and TLS. */
const httpPort = 80;
const tlsPort = 443;
const dnsPort = 53;

/**
 * New connections of one guest that the host agent carries, per second and at once. Above it they are refused in the kernel: each costs the host agent, which serves
 * all guests, far more than it costs the guest.
 */
const carriedRateMax = 100;
const carriedBurstMax = 1_000;

export interface SlotPolicy {
  /** The namespace's end of the veth pair: what the guest's traffic looks like outside */
  readonly innerAddress: string;
  /** The host's end: the only one who may open connections to the guest */
  readonly hostAddress: string;
  /** Name of the veth inside the namespace */
  readonly uplink: string;
  readonly resolvers: readonly string[];
  /** Ranges to deny beside the fixed ones: where the slots are, and the host's neighbours */
  readonly deniedExtra: readonly string[];
  /** What this host lets each guest have */
  readonly limits: GuestLimits;
}

/** Where a slot's connections go that the host agent carries: its listeners at the host's end of the veth pair. */
export interface EgressListeners {
  readonly httpPort: number;
  readonly tlsPort: number;
  /** What leaves through a proxy by address */
  readonly divertedPort: number;
  /** Questions to the resolvers, by UDP */
  readonly dnsPort: number;
}

/** What differs from sandbox to sandbox, and may change while one runs. */
export interface SlotEgress {
  readonly rules: EgressRules;
  /** Null: nothing is allowed by name */
  readonly listeners: EgressListeners | null;
}

/**
 * One transaction that makes, or replaces, all of a slot's rules.
 *
 * Every packet of a connection that the guest opened passes `from_guest`, in both directions and as long as the connection lives, and is judged by the address
 * that the guest asked for (`ct original`). So a connection ends when a change of the policy no longer allows it; to accept what is established first
 * would keep it open for ever.
 */
export function slotRuleset(policy: SlotPolicy, egress: SlotEgress): string {
  const { uplink } = policy;
  return `
${arpTable()}
table inet ${slotTable}
delete table inet ${slotTable}
table inet ${slotTable} {
  ${sets(policy)}
  chain arrive {
    type filter hook prerouting priority raw; policy accept;
    meta nfproto != ipv4 drop
    iifname "${tapName}" ip saddr != ${guestAddress} drop
    iifname "${tapName}" ip hdrlength > 5 drop
  }
  chain nat_in {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "${uplink}" ip saddr ${policy.hostAddress} ip daddr ${policy.innerAddress} dnat ip to ${guestAddress}
    iifname "${tapName}" jump capture
  }
  chain nat_out {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "${uplink}" ip saddr ${guestAddress} snat ip to ${policy.innerAddress}
    oifname "${tapName}" snat ip to ${gatewayAddress}
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state invalid,untracked drop
    iifname "${uplink}" oifname "${tapName}" ct direction original ip saddr ${policy.hostAddress} ct status dnat accept
    iifname "${tapName}" oifname "${uplink}" ct direction reply accept
    iifname "${uplink}" oifname "${tapName}" ct direction reply ct state related accept
    iifname "${tapName}" oifname "${uplink}" jump from_guest
    iifname "${uplink}" oifname "${tapName}" ct direction reply jump from_guest
  }
  chain from_guest {
    jump limits
    ct status dnat goto egress
    ${toResolver("goto egress")}
    ct original ip daddr @denied goto refuse
    goto egress
  }
  chain limits {
  }
  chain capture {
  }
  chain egress {
  }
  chain refuse {
    ${refuseRules.join("\n    ")}
  }
  chain input {
    type filter hook input priority filter; policy drop;
    iifname lo accept
    ct state established,related accept
  }
  chain output {
    type filter hook output priority filter; policy drop;
    oifname lo accept
    ct state established,related accept
    meta l4proto icmp accept
  }
}
${limitsChain(policy, egress)}${egressChains(policy, egress)}`;
}

/**
 * One transaction that replaces what one slot's guest may reach, and nothing else: other packets do not notice. Limits that stay are left alone, because they
 * begin to count anew when they are replaced.
 */
export function slotEgressChange(policy: SlotPolicy, egress: SlotEgress, before: SlotEgress): string {
  const limits = limitsChain(policy, egress);
  return `
flush chain inet ${slotTable} capture
flush chain inet ${slotTable} egress
${limits === limitsChain(policy, before) ? "" : `flush chain inet ${slotTable} limits\n${limits}`}${egressChains(policy, egress)}`;
}

/**
 * What of ARP concerns the guest: it may ask for its gateway, as itself. Neighbours that it names otherwise would become entries of a table that all namespaces of the host share in size, and a
 * few hundred of them would keep the host from finding its own. Nothing asks for the guest, which has a permanent entry, so it has nothing to answer.
 */
function arpTable(): string {
  return `table arp ${slotTable}
delete table arp ${slotTable}
table arp ${slotTable} {
  chain in {
    type filter hook input priority filter; policy accept;
    iifname "${tapName}" arp operation request arp saddr ether ${guestMacAddress} arp saddr ip ${guestAddress} arp daddr ip ${gatewayAddress} accept
    iifname "${tapName}" drop
  }
}`;
}

/** What the guest may use; each is refused above it. */
function limitsChain(policy: SlotPolicy, { rules }: SlotEgress): string {
  return `table inet ${slotTable} {
  chain limits {
    ${limitRules(policy.limits, rules.limits, tapName).join("\n    ")}
  }
}
`;
}

/** Of connections that the host agent carries. */
const carriedLimit = `limit rate over ${carriedRateMax}/second burst ${carriedBurstMax} packets goto refuse`;

/** `capture` sends away what is decided by name; `egress` has the last word on everything else. */
function egressChains(policy: SlotPolicy, { rules, listeners }: SlotEgress): string {
  const { allowed, denied, domains, proxy, headerRules } = rules;
  const carried = proxy === null ? "ct status dnat" : "meta l4proto tcp";
  const notAllowed = allowed.length === 0 ? "" : `ip daddr != { ${elementsOf(allowed)} } `;
  const capture = (port: number, listener: number) =>
    `tcp dport ${port} ip daddr != @denied ${notAllowed}dnat ip to ${policy.hostAddress}:${listener}`;
  // A resolver that is allowed by its address is one like any server: it is asked directly, for every name
  const captureDns = (listener: number) =>
    `ip daddr @resolvers udp dport ${dnsPort} ${notAllowed}dnat ip to ${policy.hostAddress}:${listener}`;
  const captures =
    listeners === null
      ? []
      : [
          ...(domains.length === 0 ? [] : [captureDns(listeners.dnsPort)]),
          capture(httpPort, listeners.httpPort),
          capture(tlsPort, listeners.tlsPort),
        ];
  return `table inet ${slotTable} {
  chain capture {
    ${captures.join("\n    ")}
  }
  chain egress {
    ${hasHeaderRules(headerRules) && proxy === null ? `tcp dport ${tlsPort} ct state new ${carriedLimit}` : ""}
    ${listeners === null && proxy === null ? "" : `${carried} ct state new ${carriedLimit}`}
    ${listeners === null ? "" : "ct status dnat accept"}
    ${allowed.length === 0 ? "" : `ct original ip daddr { ${elementsOf(allowed)} } accept`}
    ${denied.length === 0 ? "" : `ct original ip daddr { ${elementsOf(denied)} } goto refuse`}
    accept
  }
}
`;
}

/** Questions to the guests' resolvers, and their answers. */
function toResolver(verdict: string): string {
  const resolver = `ct original ip daddr @resolvers meta l4proto { tcp, udp }`;
  return `${resolver} ct direction original th dport ${dnsPort} ${verdict}\n    ${resolver} ct direction reply th sport ${dnsPort} ${verdict}`;
}

export interface HostPolicy {
  readonly tableName: string;
  /** Prefix of the host's ends of the veth pairs */
  readonly vethPrefix: string;
  readonly blockCidr: string;
  readonly resolvers: readonly string[];
  readonly deniedExtra: readonly string[];
  /** Inner addresses of the slots whose TCP must not leave directly, from the table's first moment on */
  readonly proxied: readonly string[];
  /** The same for those of which nothing leaves directly to port 443 */
  readonly opened: readonly string[];
  /** What this host lets each guest have */
  readonly limits: GuestLimits;
}

/**
 * One transaction that makes, or replaces, the host's table: packets never meet a moment without rules.
 *
 * Its chains run before other firewalls' (priority -10) and only ever drop what concerns our slots. A firewall whose own
 * forward chain drops by default (Docker's, ufw's) still has the last word: it has to accept the slots' traffic.
 *
 * TCP of a slot that has a proxy never passes `forward`: it is diverted to the host agent before that, and reset where it is not, also when it was established
 * before. So nothing of it leaves directly while the host agent is away, or changes something, or has died. Questions to the resolvers are not diverted. The same holds for
 * connections to port 443 of a slot with rules for headers.
 */
export function hostRuleset(policy: HostPolicy): string {
  const slots = `"${policy.vethPrefix}*"`;
  return `
table inet ${policy.tableName}
delete table inet ${policy.tableName}
table inet ${policy.tableName} {
  ${sets(policy)}
  set ${listenerSet} {
    type inet_proto . ipv4_addr . inet_service;
  }
  set ${countedSet} {
    type ipv4_addr; size ${slotsPerBlock}; flags dynamic;
  }
  set ${proxiedSet} {
    type ipv4_addr;
    ${policy.proxied.length === 0 ? "" : `elements = { ${policy.proxied.join(", ")} }`}
  }
  map ${divertedMap} {
    type ipv4_addr : ipv4_addr . inet_service;
  }
  set ${openedSet} {
    type ipv4_addr;
    ${policy.opened.length === 0 ? "" : `elements = { ${policy.opened.join(", ")} }`}
  }
  map ${openedMap} {
    type ipv4_addr : ipv4_addr . inet_service;
  }
  chain nat_in {
    type nat hook prerouting priority dstnat - 10; policy accept;
    iifname ${slots} meta l4proto tcp ip daddr != ${policy.blockCidr} jump divert
  }
  chain divert {
    ip daddr @resolvers tcp dport 53 return
    tcp dport ${tlsPort} dnat ip to ip saddr map @${openedMap}
    meta l4proto tcp dnat ip to ip saddr map @${divertedMap}
  }
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    iifname ${slots} jump from_guest
    oifname ${slots} jump to_guest
  }
  chain from_guest {
    meta nfproto != ipv4 drop
    ip saddr != ${policy.blockCidr} drop
    oifname ${slots} drop
    ip saddr @${proxiedSet} meta l4proto tcp jump only_resolvers
    ip saddr @${openedSet} tcp dport ${tlsPort} reject with tcp reset
    ct state established,related accept
    ct state invalid drop
    ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 goto counted
    ip daddr @denied drop
    goto counted
  }
  chain refuse {
    ${refuseRules.join("\n    ")}
  }
  chain counted {
    ${totalConnectionsRule(countedSet, policy.limits)}
    accept
  }
  chain to_guest {
    ip daddr @${proxiedSet} meta l4proto tcp jump only_resolvers
    ip daddr @${openedSet} tcp sport ${tlsPort} reject with tcp reset
    ct state established,related accept
    drop
  }
  chain only_resolvers {
    ip daddr @resolvers tcp dport 53 return
    ip saddr @resolvers tcp sport 53 return
    reject with tcp reset
  }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    iifname ${slots} ct state established,related accept
    iifname ${slots} meta l4proto . ip daddr . th dport @${listenerSet} goto counted
    iifname ${slots} drop
  }
  chain output {
    type filter hook output priority filter - 10; policy accept;
    oifname ${slots} meta skuid != 0 reject with icmp type admin-prohibited
  }
  chain nat_out {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr ${policy.blockCidr} oifname != ${slots} masquerade
  }
}
`;
}

/** Lets a slot reach the listeners that the host agent opened at its host's end, or no longer. */
export function listenersChange(verb: "add" | "delete", tableName: string, hostAddress: string, listeners: EgressListeners): string {
  const { httpPort: http, tlsPort: tls, divertedPort: diverted, dnsPort: dns } = listeners;
  const elements = [...[http, tls, diverted].map((port) => `tcp . ${hostAddress} . ${port}`), `udp . ${hostAddress} . ${dns}`];
  return `${verb} element inet ${tableName} ${listenerSet} { ${elements.join(", ")} }\n`;
}

/** What of a slot's TCP goes to the host agent whichever address it is for: all of it, because of a proxy; or TLS, because of rules for headers. */
export type Diversion = "all" | "tls";

const diversions = { all: { set: proxiedSet, map: divertedMap }, tls: { set: openedSet, map: openedMap } } as const;

/** Lets none of that leave a slot directly, or lets it again. */
export function heldChange(verb: "add" | "delete", what: Diversion, tableName: string, innerAddress: string): string {
  return `${verb} element inet ${tableName} ${diversions[what].set} { ${innerAddress} }\n`;
}

/** Diverts that of a slot to the listener for it, or no longer. */
export function divertedChange(
  verb: "add" | "delete",
  what: Diversion,
  tableName: string,
  { innerAddress, hostAddress }: Pick<SlotPolicy, "innerAddress" | "hostAddress">,
  { divertedPort }: EgressListeners,
): string {
  return `${verb} element inet ${tableName} ${diversions[what].map} { ${innerAddress} : ${hostAddress} . ${divertedPort} }\n`;
}

export function removeTable(tableName: string): string {
  return `table inet ${tableName}\ndelete table inet ${tableName}\n`;
}

function sets(policy: { readonly resolvers: readonly string[]; readonly deniedExtra: readonly string[] }): string {
  return `set denied {
    type ipv4_addr; flags interval; auto-merge;
    elements = { ${[...deniedRanges, ...policy.deniedExtra].join(", ")} }
  }
  set resolvers {
    type ipv4_addr;
    elements = { ${policy.resolvers.join(", ")} }
  }`;
}
