import fc from "fast-check";
import { expect, test } from "vitest";

import { isDomain, matchesDomain } from "./domains.ts";
import {
  allTraffic,
  deniesAll,
  egressOf,
  isSameProxy,
  networkPolicySchema,
  noLimits,
  parseAddressRange,
  parseProxyAddress,
  type EgressProxy,
} from "./network.ts";

const messages = (input: unknown) => {
  const parsed = networkPolicySchema.safeParse(input);
  return parsed.success ? [] : parsed.error.issues.map((issue) => `${issue.path.join(".")}: ${issue.message}`);
};

test("nothing said means: the internet, ports for those with the token", () => {
  expect(networkPolicySchema.parse({})).toEqual({
    allow_internet: true,
    allow_out: [],
    deny_out: [],
    is_public: false,
    mask_request_host: null,
    egress_proxy: null,
    rules: {},
    limits: { out_mbit_per_sec: null, in_mbit_per_sec: null, connections: null, connections_per_sec: null },
  });
});

test.each([
  ["203.0.113.7", { first: 0xcb007107, last: 0xcb007107 }],
  ["203.0.113.7/24", { first: 0xcb007100, last: 0xcb0071ff }],
  ["0.0.0.0/0", { first: 0, last: 0xffffffff }],
  ["255.255.255.255/32", { first: 0xffffffff, last: 0xffffffff }],
  ["1.2.3", undefined],
  ["1.2.3.256", undefined],
  ["01.2.3.4", undefined],
  ["1.2.3.4/33", undefined],
  ["1.2.3.4/", undefined],
  ["1.2.3.4/08", undefined],
  [" 1.2.3.4", undefined],
  ["example.com", undefined],
])("%s as a range", (text, range) => {
  expect(parseAddressRange(text)).toEqual(range);
});

test.each(["example.com", "a.b.example.co.uk", "*.example.com", "xn--bcher-kva.example", "_acme.example.com", "1.2.3.4.nip.io"])(
  "%s is a domain",
  (text) => expect(isDomain(text)).toBe(true),
);

test.each([
  "localhost",
  "*",
  "*.*.example.com",
  "exa mple.com",
  "-a.example.com",
  "a..example.com",
  "example.com.",
  "1.2.3.4",
  "1.2.3",
  `${"a".repeat(64)}.com`,
  `${"a.".repeat(127)}com`,
  "bücher.example",
  "http://example.com",
  "example.com:443",
])("%s is none", (text) => expect(isDomain(text)).toBe(false));

test("a domain means itself, with *. what is below it", () => {
  expect(matchesDomain("Example.com.", "example.com")).toBe(true);
  expect(matchesDomain("www.example.com", "example.com")).toBe(false);
  expect(matchesDomain("www.example.com", "*.example.com")).toBe(true);
  expect(matchesDomain("a.b.example.com", "*.example.com")).toBe(true);
  expect(matchesDomain("example.com", "*.example.com")).toBe(false);
  expect(matchesDomain("notexample.com", "*.example.com")).toBe(false);
});

test.each([
  [{ allow_out: ["1.2.3.4/40"] }, "allow_out.0: must be an IPv4 address, a CIDR block"],
  [{ allow_out: ["2001:db8::/32"], deny_out: [allTraffic] }, "allow_out.0: sandboxes have no IPv6"],
  [{ deny_out: ["8.8.8.8", "example.com"] }, "deny_out.1: a domain cannot be denied"],
  [{ deny_out: ["all"] }, "deny_out.0: must be an IP address or a CIDR block"],
  [{ deny_out: ["1.2.3.4:80"] }, "deny_out.0: must be an IP address or a CIDR block"],
  [{ allow_out: ["1.2.3.4", "example.com"] }, "allow_out.1: domains are allowed out of what is denied"],
  [{ allow_out: ["example.com"], deny_out: ["::/0"] }, "allow_out.0: domains are allowed out of what is denied"],
  [{ deny_out: Array.from({ length: 1_001 }, () => "1.2.3.4") }, "deny_out: Too big"],
  [{ mask_request_host: "local host" }, "mask_request_host: must be a host name"],
  [{ mask_request_host: "a/b" }, "mask_request_host: must be a host name"],
  [{ allow_out: [5] }, "allow_out.0: Invalid input"],
])("%j is refused", (input, message) => {
  expect(messages(input)).toEqual([expect.stringContaining(message)]);
});

test("what is written differently and means the same is taken", () => {
  const policy = networkPolicySchema.parse({ allow_out: [" Example.COM "], allow_internet: false, mask_request_host: "localhost:${PORT}" });
  expect(policy).toMatchObject({ allow_out: ["example.com"], mask_request_host: "localhost:${PORT}" });
  expect(networkPolicySchema.parse({ deny_out: ["::/0", "2001:DB8::1"] }).deny_out).toEqual(["::/0", "2001:db8::1"]);
});

test("a host is told what it can enforce", () => {
  const egress = (input: unknown) => egressOf(networkPolicySchema.parse(input));
  expect(egress({})).toEqual({ allowOut: [], denyOut: [], proxy: null, rules: {}, limits: noLimits });
  expect(egress({ allow_internet: false })).toEqual({ allowOut: [], denyOut: [allTraffic], proxy: null, rules: {}, limits: noLimits });
  expect(egress({ allow_internet: false, deny_out: [allTraffic, "::/0"], allow_out: ["a.example"] })).toEqual({
    allowOut: ["a.example"],
    denyOut: [allTraffic],
    proxy: null,
    rules: {},
    limits: noLimits,
  });
  const proxy = { protocol: "http", address: "proxy.example.com:3128", username: "a", password: "b" };
  expect(egress({ egress_proxy: proxy }).proxy).toEqual(proxy);
});

const longest = "p".repeat(255);

test.each([
  [{ address: "proxy.example.com:1080" }, { protocol: "socks5", address: "proxy.example.com:1080" }],
  [{ address: " Proxy.Example.COM:1 " }, { protocol: "socks5", address: "proxy.example.com:1" }],
  [
    { protocol: "http", address: "192.0.2.1:65535", username: "a" },
    { protocol: "http", address: "192.0.2.1:65535", username: "a" },
  ],
  [
    { address: "192.0.2.1:1080", username: "with:colon", password: longest },
    { protocol: "socks5", address: "192.0.2.1:1080", username: "with:colon", password: longest },
  ],
])("%j is a proxy", (given, proxy) => {
  expect(networkPolicySchema.parse({ egress_proxy: given }).egress_proxy).toEqual(proxy);
});

test.each<[object, string]>([
  [{}, "egress_proxy.address: Invalid input"],
  ...[
    "proxy.example.com",
    "proxy.example.com:0",
    "proxy.example.com:080",
    "proxy.example.com:65536",
    ":1080",
    "[2001:db8::1]:1080",
    "2001:db8::1:1080",
    "192.0.2.0/24:1080",
    "*.example.com:1080",
    "localhost:1080",
    "socks5://proxy.example.com:1080",
    "user@proxy.example.com:1080",
  ].map((address) => [{ address }, "egress_proxy.address: must be host:port"] satisfies [object, string]),
  [{ address: "192.0.2.1:1", username: "" }, "egress_proxy.username: Too small"],
  [{ address: "192.0.2.1:1", username: "é".repeat(128) }, "egress_proxy.username: at most 255 bytes"],
  [{ address: "192.0.2.1:1", username: "a", password: `${longest}p` }, "egress_proxy.password: Too big"],
  [{ address: "192.0.2.1:1", password: "a" }, "egress_proxy.username: a password needs a username"],
  [{ protocol: "http", address: "192.0.2.1:1", username: "a:b" }, "egress_proxy.username: an HTTP proxy's username has no colon"],
  [{ protocol: "socks4", address: "192.0.2.1:1" }, "egress_proxy.protocol: Invalid option"],
])("%j is none", (given, message) => {
  expect(messages({ egress_proxy: given })).toContainEqual(expect.stringContaining(message));
});

test("an address has a host and a port", () => {
  expect(parseProxyAddress("proxy.example.com:1080")).toEqual({ host: "proxy.example.com", port: 1_080 });
  expect(parseProxyAddress("192.0.2.1:99999")).toBeUndefined();
});

test("proxies are the same when nothing differs", () => {
  const one: EgressProxy = { protocol: "socks5", address: "192.0.2.1:1080", username: "a", password: "b" };
  expect([isSameProxy(null, null), isSameProxy(one, { ...one }), isSameProxy(one, null), isSameProxy(null, one)]).toEqual([
    true,
    true,
    false,
    false,
  ]);
  for (const change of [{ protocol: "http" }, { address: "192.0.2.1:1081" }, { username: "c" }, { password: undefined }] as const)
    expect(isSameProxy(one, { ...one, ...change })).toBe(false);
});

test("whatever is parsed, what a host is told needs no more checking", () => {
  const entry = fc.oneof(
    fc.ipV4(),
    fc.tuple(fc.ipV4(), fc.nat(32)).map(([ip, prefix]) => `${ip}/${prefix}`),
    fc.domain(),
    fc.ipV6(),
    fc.string(),
  );
  fc.assert(
    fc.property(fc.record({ allow_out: fc.array(entry), deny_out: fc.array(entry), allow_internet: fc.boolean() }), (input) => {
      const parsed = networkPolicySchema.safeParse(input);
      if (!parsed.success) return;
      const { allowOut, denyOut } = egressOf(parsed.data);
      expect(denyOut.every((each) => parseAddressRange(each) !== undefined)).toBe(true);
      expect(allowOut.every((each) => isDomain(each) || parseAddressRange(each) !== undefined)).toBe(true);
      if (allowOut.some(isDomain)) expect(deniesAll(parsed.data)).toBe(true);
    }),
  );
});
