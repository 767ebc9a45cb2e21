import {
  allTraffic,
  isDomain,
  noLimits,
  parseAddressRange,
  type AddressRange,
  type EgressLimits,
  type EgressPolicy,
  type EgressProxy,
  type HeaderRules,
} from "@roost/contract";
import { must } from "@roost/kit";

import type { Authority } from "../egress/sandbox-authority.ts";
import { formatAddress } from "./address-block.ts";

/** An egress policy, with what a host adds to it. */
export interface HostEgress extends EgressPolicy {
  /** Vouches for the host where it opens the TLS of connections to domains with rules; needed where there are some */
  readonly authority?: Authority | null;
}

/** Nothing allowed or denied beyond what holds for every guest: the internet. */
export const openEgress: HostEgress = { allowOut: [], denyOut: [], proxy: null, rules: {}, limits: noLimits };

export const closedEgress: HostEgress = { ...openEgress, denyOut: [allTraffic] };

/** An egress policy in the form in which it is enforced: ranges ascend, do not overlap, and do not touch. */
export interface EgressRules {
  readonly allowed: readonly AddressRange[];
  readonly denied: readonly AddressRange[];
  /** Allowed by name; what they stand for is decided for each connection */
  readonly domains: readonly string[];
  /** Where TCP leaves through that is allowed; null: directly */
  readonly proxy: EgressProxy | null;
  readonly headerRules: HeaderRules;
  /** Null: there are no such rules */
  readonly authority: Authority | null;
  /** That it was asked for; the host may have lower ones */
  readonly limits: EgressLimits;
}

export function egressRules(policy: HostEgress): EgressRules {
  return {
    allowed: mergeRanges(policy.allowOut.filter((entry) => !isDomain(entry)).map(rangeOf)),
    denied: mergeRanges(policy.denyOut.map(rangeOf)),
    domains: [...new Set(policy.allowOut.filter(isDomain))],
    proxy: policy.proxy,
    headerRules: policy.rules,
    authority: policy.authority ?? null,
    limits: policy.limits,
  };
}

/** Of text that was checked before: it is a bug if it is no range. */
export function rangeOf(text: string): AddressRange {
  return must(parseAddressRange(text), `an address or CIDR block, not '${text}'`);
}

/** Whether a policy asks for nothing but what every guest has. */
export function isOpen({ denyOut, proxy, rules, limits }: EgressPolicy): boolean {
  // Without anything denied there is nothing to allow
  return denyOut.length === 0 && proxy === null && !hasHeaderRules(rules) && Object.values(limits).every((limit) => limit === null);
}

export function hasHeaderRules(rules: HeaderRules): boolean {
  return Object.keys(rules).length > 0;
}

export function mergeRanges(ranges: readonly AddressRange[]): AddressRange[] {
  const merged: { first: number; last: number }[] = [];
  for (const { first, last } of ranges.toSorted((one, other) => one.first - other.first)) {
    const previous = merged.at(-1);
    if (previous !== undefined && first <= previous.last + 1) previous.last = Math.max(previous.last, last);
    else merged.push({ first, last });
  }
  return merged;
}

export function isInRanges(address: number, ranges: readonly AddressRange[]): boolean {
  return ranges.some(({ first, last }) => first <= address && address <= last);
}

/** Ranges as elements of an nftables set. */
export function elementsOf(ranges: readonly AddressRange[]): string {
  return ranges
    .map(({ first, last }) => (first === last ? formatAddress(first) : `${formatAddress(first)}-${formatAddress(last)}`))
    .join(", ");
}

/** Whether the policy lets a guest open a connection to an address, leaving aside what no guest reaches and what is allowed by name. */
export function allowsAddress(rules: EgressRules, address: number): boolean {
  return isInRanges(address, rules.allowed) || !isInRanges(address, rules.denied);
}
