import { allTraffic, isDomain, parseAddressRange, type AddressRange, type EgressPolicy, type EgressProxy } from "@roost/contract";
import { must } from "@roost/kit";

import { formatAddress } from "./address-block.ts";

/** Nothing allowed or denied beyond what holds for every guest: the internet. */
export const openEgress: EgressPolicy = { allowOut: [], denyOut: [], proxy: null };

export const closedEgress: EgressPolicy = { allowOut: [], denyOut: [allTraffic], proxy: null };

/** An egress policy in the form in which it is enforced: ranges ascend, do not overlap, and do not touch. */
export interface EgressRules {
  readonly allowed: readonly AddressRange[];
  readonly denied: readonly AddressRange[];
  /** Allowed by name; what they stand for is decided for each connection */
  readonly domains: readonly string[];
  /** Where TCP leaves through that is allowed; null: directly */
  readonly proxy: EgressProxy | null;
}

export function egressRules(policy: EgressPolicy): EgressRules {
  return {
    allowed: mergeRanges(policy.allowOut.filter((entry) => !isDomain(entry)).map(rangeOf)),
    denied: mergeRanges(policy.denyOut.map(rangeOf)),
    domains: [...new Set(policy.allowOut.filter(isDomain))],
    proxy: policy.proxy,
  };
}

/** Of text that was checked before: it is a bug if it is no range. */
export function rangeOf(text: string): AddressRange {
  return must(parseAddressRange(text), `an address or CIDR block, not '${text}'`);
}

export function isOpen(policy: EgressPolicy): boolean {
  return policy.denyOut.length === 0 && policy.proxy === null; // without anything denied there is nothing to allow
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
