import { gatewayAddress, guestAddress, tapName } from "./network.ts";

/**
 * The default policy: a guest reaches the internet, and nothing else. Written twice, so that a mistake in one place is
 * not a hole: in the slot's own namespace, which the guest's packets cross first, and in one table on the host.
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

/**
 * Connections one guest may have open at once. Above it new ones are refused: the host's connection table is shared by all
 * sandboxes, and one guest must not be able to fill it.
 */
export const connectionCountMax = 4_096;

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
}

/** One transaction that makes all of a slot's rules. */
export function slotRuleset(policy: SlotPolicy): string {
  const { uplink } = policy;
  return `
table inet roost {
  ${sets(policy)}
  chain arrive {
    type filter hook prerouting priority raw; policy accept;
    meta nfproto != ipv4 drop
    iifname "${tapName}" ip saddr != ${guestAddress} drop
  }
  chain nat_in {
    type nat hook prerouting priority dstnat; policy accept;
    iifname "${uplink}" ip saddr ${policy.hostAddress} ip daddr ${policy.innerAddress} dnat ip to ${guestAddress}
  }
  chain nat_out {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "${uplink}" ip saddr ${guestAddress} snat ip to ${policy.innerAddress}
    oifname "${tapName}" snat ip to ${gatewayAddress}
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct state invalid drop
    iifname "${uplink}" oifname "${tapName}" ip saddr ${policy.hostAddress} ct status dnat accept
    iifname "${tapName}" oifname "${uplink}" jump from_guest
  }
  chain from_guest {
    ct state new ct count over ${connectionCountMax} reject with icmp type admin-prohibited
    ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
    ip daddr @denied reject with icmp type admin-prohibited
    accept
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
`;
}

export interface HostPolicy {
  readonly tableName: string;
  /** Prefix of the host's ends of the veth pairs */
  readonly vethPrefix: string;
  readonly blockCidr: string;
  readonly resolvers: readonly string[];
  readonly deniedExtra: readonly string[];
}

/**
 * One transaction that makes, or replaces, the host's table: packets never meet a moment without rules.
 *
 * Its chains run before other firewalls' (priority -10) and only ever drop what concerns our slots. A firewall whose own
 * forward chain drops by default (Docker's, ufw's) still has the last word: it has to accept the slots' traffic.
 */
export function hostRuleset(policy: HostPolicy): string {
  const slots = `"${policy.vethPrefix}*"`;
  return `
table inet ${policy.tableName}
delete table inet ${policy.tableName}
table inet ${policy.tableName} {
  ${sets(policy)}
  chain forward {
    type filter hook forward priority filter - 10; policy accept;
    iifname ${slots} jump from_guest
    oifname ${slots} jump to_guest
  }
  chain from_guest {
    meta nfproto != ipv4 drop
    ip saddr != ${policy.blockCidr} drop
    oifname ${slots} drop
    ct state established,related accept
    ct state invalid drop
    ip daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
    ip daddr @denied drop
    accept
  }
  chain to_guest {
    ct state established,related accept
    drop
  }
  chain input {
    type filter hook input priority filter - 10; policy accept;
    iifname ${slots} ct state established,related accept
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
