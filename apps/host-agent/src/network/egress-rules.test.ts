import { noLimits, type EgressPolicy } from "@roost/contract";
import fc from "fast-check";
import { expect, test } from "vitest";

import { allowsAddress, closedEgress, egressRules, elementsOf, isInRanges, isOpen, mergeRanges, openEgress } from "./egress-rules.ts";
import { effectiveLimits } from "./limits.ts";
import { listenersChange, slotEgressChange, slotRuleset, type EgressListeners } from "./policy.ts";

const hostLimits = { mbitMax: 0, connectionsMax: 4_096, connectionsPerSecMax: 500 };
const before = { rules: egressRules(openEgress), listeners: null };
const slot = {
  innerAddress: "198.18.0.1",
  hostAddress: "198.18.0.0",
  uplink: "eth0",
  resolvers: ["192.0.2.53"],
  deniedExtra: [],
  limits: hostLimits,
};
const lines = (text: string) => text.split("\n").map((line) => line.trim());

test("ranges are merged: same addresses, ascending, none touching the next", () => {
  const range = fc.tuple(fc.nat(300), fc.nat(40)).map(([first, length]) => ({ first, last: first + length }));
  fc.assert(
    fc.property(fc.array(range), (ranges) => {
      const merged = mergeRanges(ranges);
      for (let address = 0; address <= 345; address += 1) expect(isInRanges(address, merged)).toBe(isInRanges(address, ranges));
      merged.forEach(({ first }, index) => expect(first).toBeGreaterThan((merged[index - 1]?.last ?? -2) + 1));
    }),
  );
  expect(elementsOf(mergeRanges([{ first: 0, last: 2 ** 32 - 1 }]))).toBe("0.0.0.0-255.255.255.255");
});

test("what is allowed wins over what is denied; what is neither is allowed", () => {
  const rules = egressRules({
    ...openEgress,
    allowOut: ["203.0.113.7", "example.com", "example.com"],
    denyOut: ["203.0.113.0/24", "203.0.114.0/24"],
  });
  const [base, allowed] = [0xcb007100, 0xcb007107];
  expect([base - 1, base, allowed, base + 511, base + 512].map((address) => allowsAddress(rules, address))).toEqual([
    true,
    false,
    true,
    false,
    true,
  ]);
  expect(rules.domains).toEqual(["example.com"]);
  expect([openEgress, closedEgress, { ...openEgress, allowOut: ["1.2.3.4"], denyOut: [] }].map(isOpen)).toEqual([true, false, true]);
});

test("the rules of a policy replace those before in one transaction, which ends in a verdict", () => {
  const rules = egressRules({ ...openEgress, allowOut: ["203.0.113.7"], denyOut: ["0.0.0.0/0"] });
  const text = lines(slotEgressChange(slot, { rules, listeners: null }, before));
  expect(text.filter((line) => line.startsWith("flush"))).toEqual(["flush chain inet roost capture", "flush chain inet roost egress"]);
  const egress = text.slice(text.indexOf("chain egress {")).filter((line) => line !== "");
  expect(egress).toEqual([
    "chain egress {",
    "ct original ip daddr { 203.0.113.7 } accept",
    "ct original ip daddr { 0.0.0.0-255.255.255.255 } goto refuse",
    "accept",
    "}",
    "}",
  ]);
  expect(text.filter((line) => line.includes("dnat"))).toEqual([]);
});

test("connections that the host agent carries are limited: by name, or all TCP where there is a proxy", () => {
  const limited = (policy: EgressPolicy, listeners: EgressListeners | null) =>
    lines(slotEgressChange(slot, { rules: egressRules(policy), listeners }, before)).filter((line) => line.includes("limit rate"));
  const proxy = { protocol: "socks5", address: "192.0.2.1:1080" } as const;
  const listeners = { httpPort: 1, tlsPort: 2, divertedPort: 3, dnsPort: 4 };
  expect(limited(openEgress, null)).toEqual([]);
  const rate = "ct state new limit rate over 100/second burst 1000 packets goto refuse";
  expect(limited({ ...closedEgress, allowOut: ["example.com"] }, listeners)).toEqual([`ct status dnat ${rate}`]);
  expect(limited({ ...openEgress, proxy }, null)).toEqual([`meta l4proto tcp ${rate}`]);
  expect(isOpen({ ...openEgress, proxy })).toBe(false);
});

test("names send ports 80 and 443 to the listeners, but never what is allowed by address or denied to all", () => {
  const rules = egressRules({ ...openEgress, allowOut: ["example.com", "203.0.113.7"], denyOut: ["0.0.0.0/0"] });
  const listeners = { httpPort: 1_080, tlsPort: 1_443, divertedPort: 1_081, dnsPort: 1_053 };
  const text = lines(slotRuleset(slot, { rules, listeners }));
  expect(text).toContain("tcp dport 80 ip daddr != @denied ip daddr != { 203.0.113.7 } dnat ip to 198.18.0.0:1080");
  expect(text).toContain("tcp dport 443 ip daddr != @denied ip daddr != { 203.0.113.7 } dnat ip to 198.18.0.0:1443");
  expect(text).toContain("ip daddr @resolvers udp dport 53 ip daddr != { 203.0.113.7 } dnat ip to 198.18.0.0:1053");
  expect(listenersChange("add", "roost_1", "198.18.0.0", listeners)).toBe(
    "add element inet roost_1 egress_listeners { tcp . 198.18.0.0 . 1080, tcp . 198.18.0.0 . 1443, tcp . 198.18.0.0 . 1081, udp . 198.18.0.0 . 1053 }\n",
  );
});

test("a sandbox may have less than its host lets it have, never more; limits that stay are not replaced", () => {
  const asked = { outMbit: 50, inMbit: 500, connections: 8, connectionsPerSec: 9_999 };
  expect(effectiveLimits({ ...hostLimits, mbitMax: 100 }, asked)).toEqual({
    outMbit: 50,
    inMbit: 100,
    connections: 8,
    connectionsPerSec: 500,
  });
  expect(effectiveLimits(hostLimits, noLimits)).toEqual({ outMbit: 0, inMbit: 0, connections: 4_096, connectionsPerSec: 500 });
  const limited = { rules: egressRules({ ...openEgress, limits: asked }), listeners: null };
  expect(isOpen({ ...openEgress, limits: asked })).toBe(false);
  const change = lines(slotEgressChange(slot, limited, before));
  expect(change).toContain("flush chain inet roost limits");
  expect(change).toContain("ct status & confirmed == 0 ct count over 8 goto refuse");
  expect(change).toContain('iifname "tap0" limit rate over 6250000 bytes/second burst 1562500 bytes drop');
  expect(slotEgressChange(slot, { ...limited, rules: { ...limited.rules, denied: [] } }, limited)).not.toContain("limits");
});
