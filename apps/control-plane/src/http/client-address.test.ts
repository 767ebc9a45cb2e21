import { expect, test } from "vitest";

import { addressKey } from "../accounts/attempts.ts";
import { parseRanges } from "../channels/address-ranges.ts";
import { ClientAddresses } from "./client-address.ts";

const from = (peer: string | undefined, forwarded?: string) =>
  ({ socket: { remoteAddress: peer }, headers: forwarded === undefined ? {} : { "x-forwarded-for": forwarded } }) as never;

test("without proxies a client is who its connection is from, whatever it says", () => {
  const addresses = new ClientAddresses([]);
  expect(addresses.of(from("203.0.113.1", "10.0.0.1"))).toBe("203.0.113.1");
  expect(addresses.of(from("::ffff:203.0.113.1"))).toBe("203.0.113.1");
  expect(addresses.of(from(undefined))).toBeNull();
});

test.each([
  ["203.0.113.1", "1.1.1.1", "203.0.113.1"], // no proxy of ours
  ["10.0.0.1", "1.1.1.1", "1.1.1.1"],
  ["10.0.0.1", "6.6.6.6, 1.1.1.1", "1.1.1.1"], // what the client wrote itself is before what our proxy wrote
  ["10.0.0.1", "6.6.6.6, 1.1.1.1, 10.0.0.2", "1.1.1.1"],
  ["10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"],
  ["10.0.0.1", "nonsense", "10.0.0.1"],
  ["10.0.0.1", "6.6.6.6, nonsense", "10.0.0.1"],
  ["10.0.0.1", "", "10.0.0.1"],
  ["::ffff:10.0.0.1", "[2001:db8::1]", "2001:db8::1"],
  ["fd00::1", "::ffff:1.2.3.4", "1.2.3.4"],
])("behind own proxies: %s says %j → %s", (peer, forwarded, expected) => {
  expect(new ClientAddresses(parseRanges("10.0.0.0/8,fd00::/8")).of(from(peer, forwarded))).toBe(expected);
});

test("who is counted as one", () => {
  expect(addressKey("203.0.113.1")).toBe("203.0.113.1");
  expect(addressKey("::ffff:203.0.113.1")).toBe("203.0.113.1");
  expect(addressKey("2001:db8:1:2::9")).toBe(addressKey("2001:db8:1:2:ffff:ffff:ffff:ffff"));
  expect(addressKey("2001:db8:1:2::9")).not.toBe(addressKey("2001:db8:1:3::9"));
  expect(addressKey("2001:db8::9")).toBe("2001:db8:0:0::/64");
  expect(addressKey("::1")).toBe("0:0:0:0::/64");
  expect(addressKey(null)).toBe("unknown");
});
