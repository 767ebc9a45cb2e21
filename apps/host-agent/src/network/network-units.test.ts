import { must } from "@roost/kit";
import { expect, test } from "vitest";

import { blocksOf, formatAddress, parseAddress, slotAddresses } from "./address-block.ts";
import { findDroppingForwardChains } from "./linux-network.ts";
import { localNetworksOf } from "./local-networks.ts";
import { parseResolvers } from "./resolvers.ts";

test("a range is cut into blocks that do not overlap", () => {
  const blocks = blocksOf("198.18.0.0/15");
  expect(blocks).toHaveLength(64);
  expect(blocks[0]).toMatchObject({ cidr: "198.18.0.0/21", slotCountMax: 1_024 });
  expect(blocks[63]).toMatchObject({ cidr: "198.19.248.0/21" });
  expect(slotAddresses(must(blocks[63], "last block"), 1_023)).toEqual({ host: "198.19.255.254", inner: "198.19.255.255" });
});

test("a small range is one block, and host bits in it do not matter", () => {
  expect(blocksOf("10.9.8.77/24")).toEqual([{ index: 0, base: parseAddress("10.9.8.0"), cidr: "10.9.8.0/24", slotCountMax: 128 }]);
});

test("addresses survive the way to a number and back", () => {
  for (const address of ["0.0.0.0", "198.18.0.1", "255.255.255.255"]) expect(formatAddress(parseAddress(address))).toBe(address);
});

test("resolvers that are the host itself, or not IPv4, are left out", () => {
  const text =
    "# comment\nnameserver 127.0.0.53\nnameserver 10.0.0.2\nnameserver ::1\n nameserver 10.0.0.2\nnameserver 9.9.9.9\nsearch example.org\n";
  expect(parseResolvers(text)).toEqual(["10.0.0.2", "9.9.9.9"]);
});

test("firewalls that forward nothing by default are found in the listing of all chains", () => {
  const chain = (policy: string) => `\tchain FORWARD {\n\t\ttype filter hook forward priority filter; policy ${policy};\n\t}\n`;
  const input = "\tchain INPUT {\n\t\ttype filter hook input priority filter; policy drop;\n\t}\n";
  const listing = `table ip filter {\n${input}${chain("drop")}}\ntable inet mine {\n${input}${chain("accept")}}\ntable ip6 x {\n}\n`;
  expect(findDroppingForwardChains(listing)).toEqual(["ip filter"]);
});

test("the host's neighbours are those of the interfaces it has a way out by", () => {
  const routes = [
    { dst: "default", dev: "eth0" },
    { dst: "203.0.113.0/24", dev: "eth0", scope: "link" },
    { dst: "203.0.113.1", dev: "eth0", scope: "link" },
    { dst: "172.17.0.0/16", dev: "docker0", scope: "link" },
    { dst: "198.51.100.0/24", dev: "eth0" },
  ];
  expect(localNetworksOf(routes)).toEqual(["203.0.113.0/24", "203.0.113.1"]);
});
