import type { EgressLimits } from "@roost/contract";

/** What a host lets each guest have at most. A sandbox may have less, never more. */
export interface GuestLimits {
  /** In Mbit per `s` for each direction; 0: no limit */
  readonly mbitMax: number;
  /** Open at once */
  readonly connectionsMax: number;
  /** New ones in a second */
  readonly connectionsPerSecMax: number;
}

export interface EffectiveLimits {
  /** In Mbit per `s`; 0: no limit */
  readonly outMbit: number;
  readonly inMbit: number;
  readonly connections: number;
  readonly connectionsPerSec: number;
}

export function effectiveLimits(host: GuestLimits, asked: EgressLimits): EffectiveLimits {
  return {
    outMbit: lowest(host.mbitMax, asked.outMbit),
    inMbit: lowest(host.mbitMax, asked.inMbit),
    connections: Math.min(host.connectionsMax, asked.connections ?? host.connectionsMax),
    connectionsPerSec: Math.min(host.connectionsPerSecMax, asked.connectionsPerSec ?? host.connectionsPerSecMax),
  };
}

/** 0 is no limit. */
function lowest(host: number, asked: number | null): number {
  if (asked === null) return host;
  return host === 0 ? asked : Math.min(host, asked);
}

const bytesPerSecOfMbit = 125_000;
/** Part of a second whose bytes may come at once, and the least of them in bytes: segments of 64 KiB are one packet here, and a burst of less than a few of them would never let one pass */
const burstShare = 0.25;
const burstBytesMin = 256 * 1024;

/** Before its first packet has left a namespace, a connection is not in the connection table: later packets, and answers that are waited for, are no new connection. */
const firstPacket = "ct status & confirmed == 0";

/**
 * Rules of a slot for packets of connections that its guest opened. Bytes above the rate are dropped, which TCP answers with a lower rate; connections above theirs are refused. The rate of
 * new ones comes first: it costs nothing, while to count those that are open means to look for each of them.
 */
export function limitRules(host: GuestLimits, asked: EgressLimits, tap: string): string[] {
  const { outMbit, inMbit, connections, connectionsPerSec } = effectiveLimits(host, asked);
  return [
    `${firstPacket} limit rate over ${connectionsPerSec}/second burst ${2 * connectionsPerSec} packets goto refuse`,
    `${firstPacket} ct count over ${connections} goto refuse`,
    ...(outMbit === 0 ? [] : [`iifname "${tap}" ${rateOver(outMbit)} drop`]),
    ...(inMbit === 0 ? [] : [`oifname "${tap}" ${rateOver(inMbit)} drop`]),
  ];
}

function rateOver(mbit: number): string {
  const bytesPerSec = mbit * bytesPerSecOfMbit;
  return `limit rate over ${bytesPerSec} bytes/second burst ${Math.max(burstBytesMin, Math.trunc(bytesPerSec * burstShare))} bytes`;
}

/** Of a connection that is refused, at once: what ICMP says is limited in rate, so that a guest's later tries would wait. */
export const refuseRules = ["meta l4proto tcp reject with tcp reset", "reject with icmp type admin-prohibited"] as const;

/**
 * Counts the connections of each slot in the host's own connection table, which all sandboxes share, and refuses those above the host's limit. What a slot counts is not enough: a guest can
 * end a connection there with a packet that never comes to the host (too large for the way, or above its rate), and the host's entry would stay for days.
 */
export function totalConnectionsRule(set: string, { connectionsMax }: GuestLimits): string {
  return `${firstPacket} add @${set} { ip saddr ct count over ${connectionsMax} } goto refuse`;
}
