import { allTraffic, type EgressPolicy, type EgressProxy } from "@roost/contract";
import { poll, run } from "@roost/kit";
import { earlyText, proxyCredentials, proxyServersScript } from "@roost/testing";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { hostTableName, namespaceName } from "../instance.ts";
import { openEgress } from "../network/egress-rules.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { world, type LabGuest, type LabProgram } from "../testing/network-lab.ts";
import { connectionsMax } from "./egress-gateway.ts";

const ports = { open: 1_080, password: 1_081, early: 1_082, refuse: 1_083, hang: 1_084, nonsense: 1_085, private: 1_086 } as const;
const httpPorts = { open: 3_128, password: 3_129, early: 3_130, refuse: 3_131, nonsense: 3_132, echo: 3_133 } as const;
const names = { "internet.test": world.internet, "stream.test": world.streams, "only-there.test": world.internet };

let lab: EgressLab;
let guest: LabGuest;
let proxies: LabProgram;
let privateProxy: LabProgram;

beforeAll(async () => {
  lab = await EgressLab.create("rp", { egressProxyRanges: [`${world.privateProxies}/32`] });
  ({ guest } = lab);
  const { private: privatePort, ...socksPorts } = ports;
  const listeners = [
    ...Object.entries(socksPorts).map(([kind, port]) => ({ protocol: "socks5" as const, kind: kind as keyof typeof socksPorts, port })),
    ...Object.entries(httpPorts).map(([kind, port]) => ({ protocol: "http" as const, kind: kind as keyof typeof httpPorts, port })),
  ];
  proxies = lab.lab.beginInWorld(proxyServersScript({ listeners, address: world.proxies, names }));
  const own = [{ protocol: "socks5", kind: "open", port: privatePort }] as const;
  privateProxy = lab.lab.beginInWorld(proxyServersScript({ listeners: own, address: world.privateProxies, names }));
  for (const each of [proxies, privateProxy])
    await poll({ what: "the proxies", timeoutMs: 30_000 }, () => (each.output.includes("ready") ? true : undefined));
});

afterEach(async () => {
  await lab.setEgress(openEgress);
});

afterAll(async () => {
  await proxies?.[Symbol.asyncDispose]();
  await privateProxy?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
});

const socks = (kind: keyof typeof ports, more: Partial<EgressProxy> = {}): EgressProxy => ({
  protocol: "socks5",
  address: `${kind === "private" ? world.privateProxies : world.proxies}:${ports[kind]}`,
  ...more,
});
const http = (kind: keyof typeof httpPorts, more: Partial<EgressProxy> = {}): EgressProxy => ({
  protocol: "http",
  address: `${world.proxies}:${httpPorts[kind]}`,
  ...more,
});
const proxied = (proxy: EgressProxy, policy: Partial<EgressPolicy> = {}) => lab.setEgress({ ...openEgress, ...policy, proxy });
const byName = { allowOut: ["internet.test", "only-there.test", "stream.test"], denyOut: [allTraffic] };

const direct = "world sees 11.77.2.0\n";
const viaProxy = `world sees ${world.proxies}\n`;
const reset = "refused: ECONNRESET\n";

/** What the proxies were asked for meanwhile. */
async function askedDuring(work: () => Promise<void>): Promise<string[]> {
  const from = proxies.output.length;
  await work();
  return proxies.output
    .slice(from)
    .split("\n")
    .filter((line) => line !== "");
}

const get = (host: string) =>
  guest.run(`
const socket = require("node:net").connect(80, "${world.internet}", () => socket.write("GET / HTTP/1.1\\r\\nHost: ${host}\\r\\n\\r\\n"));
socket.on("data", (chunk) => process.stdout.write(chunk));
socket.on("error", (error) => console.log("refused: " + error.code));
socket.on("end", () => socket.destroy());
`);

/** Talks to what echoes, for as long as it can; then says how that ended. Where a reset comes behind bytes that were not read yet, libuv (1.46) reports it as an end: then there is no error. */
const talk = `
const socket = require("node:net").connect(7, "${world.internet}", () => setInterval(() => socket.write("hello "), 50));
socket.on("data", (data) => process.stdout.write(data));
let how = "by its end";
socket.on("error", (error) => (how = error.code));
socket.on("close", () => process.stdout.write("ended " + how + "\\n", () => process.exit()));
`;
const heard = (program: LabProgram, text: string) => expect.poll(() => program.output, { timeout: 30_000 }).toContain(text);

test.each([
  ["SOCKS5", () => socks("open"), ports.open],
  ["HTTP CONNECT", () => http("open"), httpPorts.open],
])("a connection leaves through a proxy, by %s: the proxy is told the address that the guest asked for", async (_name, proxy, port) => {
  await proxied(proxy());
  const asked = await askedDuring(async () => {
    expect(await guest.fetch(world.internet)).toBe(viaProxy);
    expect(await guest.fetch(world.elsewhere, 443)).toBe(viaProxy);
  });
  expect(asked).toEqual([`${port} ${world.internet}:80`, `${port} ${world.elsewhere}:443`]);
});

test.each([
  ["SOCKS5", (more: Partial<EgressProxy>) => socks("password", more)],
  ["HTTP CONNECT", (more: Partial<EgressProxy>) => http("password", more)],
])("a proxy gets its credentials; with others, or none, nothing is reached (%s)", async (_name, proxy) => {
  await proxied(proxy(proxyCredentials));
  expect(await guest.fetch(world.internet)).toBe(viaProxy);
  await proxied(proxy({ ...proxyCredentials, password: "wrong" }));
  expect(await guest.fetch(world.internet)).toBe(reset);
  await proxied(proxy({}));
  expect(await guest.fetch(world.internet)).toBe(reset);
});

test("a proxy is found by its name, for each connection", async () => {
  await proxied({ protocol: "socks5", address: `proxies.test:${ports.open}` });
  expect(await guest.fetch(world.internet)).toBe(viaProxy);
});

test.each([
  ["nothing listens there", () => ({ protocol: "socks5", address: `${world.proxies}:9` }) as const],
  ["its name does not resolve", () => ({ protocol: "socks5", address: `unknown.test:${ports.open}` }) as const],
  ["its name leads into a private network", () => ({ protocol: "socks5", address: `private.test:${ports.open}` }) as const],
  ["it is in a private network", () => ({ protocol: "socks5", address: `10.77.0.1:80` }) as const],
  ["it is the host", () => ({ protocol: "socks5", address: `${world.host}:22` }) as const],
  ["it refuses (SOCKS5)", () => socks("refuse")],
  ["it refuses (HTTP)", () => http("refuse")],
  ["it talks nonsense (SOCKS5)", () => socks("nonsense")],
  ["it talks nonsense (HTTP)", () => http("nonsense")],
  ["it speaks another protocol", () => http("open", { address: `${world.proxies}:${ports.open}` })],
])("nothing is reached when a proxy does not work: %s", async (_why, proxy) => {
  await proxied(proxy());
  expect(await guest.fetch(world.internet)).toBe(reset);
  await proxied(proxy(), byName);
  expect(await get("internet.test")).toMatch(/^HTTP\/1\.1 502 Bad Gateway[^]*through the egress proxy of this sandbox\n$/);
});

test("a private proxy is reached where the operator allows it, and is accepted", async () => {
  await lab.network.checkProxy(socks("private"));
  await proxied(socks("private"));
  expect(await guest.fetch(world.internet)).toBe(`world sees ${world.privateProxies}\n`);
});

test.each([
  "10.77.0.1:1080",
  "127.0.0.1:1080",
  `${world.host}:1080`,
  "198.18.0.0:1080",
  "private.test:1080",
  "host.test:1080",
  "unknown.test:1080",
])("%s is no address for a proxy", async (address) => {
  await expect(lab.network.checkProxy({ protocol: "socks5", address })).rejects.toMatchObject({ code: "egress_proxy_invalid" });
});

test("a name with a public address beside a private one is one for a proxy", async () => {
  await lab.network.checkProxy({ protocol: "socks5", address: "mixed.test:1080" });
});

test.each([
  ["SOCKS5", () => socks("open"), ports.open],
  ["HTTP CONNECT", () => http("open"), httpPorts.open],
])("a connection that is decided by name is asked for by name: only the proxy resolves it (%s)", async (_name, proxy, port) => {
  await proxied(proxy(), byName);
  const asked = await askedDuring(async () => {
    expect(await get("Internet.test")).toBe(viaProxy);
    expect(await get("only-there.test")).toBe(viaProxy);
    expect(await get("elsewhere.test")).toContain("403 Forbidden");
  });
  expect(asked).toEqual([`${port} internet.test:80`, `${port} only-there.test:80`]);
});

test("what is denied is not asked for, and what no guest reaches neither", async () => {
  await proxied(socks("open"), { denyOut: [world.elsewhere] });
  const asked = await askedDuring(async () => {
    expect(await guest.fetch(world.elsewhere)).toMatch(/^refused: E/);
    for (const address of [...world.denied, world.host, "169.254.0.22"]) expect(await guest.fetch(address)).toMatch(/^refused: /);
    await proxied(socks("open"), { allowOut: [world.internet], denyOut: [allTraffic] });
    expect(await guest.fetch(world.elsewhere)).toMatch(/^refused: E/);
    expect(await guest.fetch(world.internet)).toBe(viaProxy);
  });
  expect(asked).toEqual([`${ports.open} ${world.internet}:80`]);
});

test("UDP and questions to the resolvers leave as usual", async () => {
  await proxied(socks("open"));
  const ask = (address: string) =>
    guest.run(
      `const socket = require("node:dgram").createSocket("udp4"); socket.on("message", (message) => { console.log(String(message)); socket.close(); }); socket.send("question", 53, "${address}")`,
    );
  expect(await ask(world.internet)).toBe("answer\n");
  expect(await ask(world.resolver)).toBe("answer\n");
  expect(await guest.fetch(world.resolver, 53)).toBe(direct);
});

test("other sandboxes are not concerned", async () => {
  await proxied(socks("open"));
  const other = await lab.plug(1);
  expect(await other.guest.fetch(world.internet)).toBe(direct);
  await lab.network.release(other.slot);
});

test("a connection ends when it would now go another way", async () => {
  await using first = guest.begin(talk);
  await heard(first, "hello");
  await proxied(socks("open"));
  await heard(first, "ended ");
  expect(await guest.fetch(world.internet)).toBe(viaProxy);

  await using second = guest.begin(talk);
  await heard(second, "hello");
  await proxied(socks("open"), { denyOut: [world.elsewhere] });
  const { length } = second.output;
  await expect.poll(() => second.output.length, { timeout: 30_000 }).toBeGreaterThan(length);
  expect(second.output, "the same proxy").not.toContain("ended");
  await proxied(socks("password", proxyCredentials));
  await heard(second, "ended ");

  await using third = guest.begin(talk);
  await heard(third, "hello");
  await lab.setEgress(openEgress);
  await heard(third, "ended ");
  expect(await guest.fetch(world.internet)).toBe(direct);
});

test("a connection that is decided by name ends, too", async () => {
  const byNameTalk = talk
    .replace("7,", "80,")
    .replace("() => setInterval", `() => socket.write("GET / HTTP/1.1\\r\\nHost: stream.test\\r\\n\\r\\n") && setInterval`);
  await lab.setEgress({ ...openEgress, ...byName, proxy: null });
  await using first = guest.begin(byNameTalk);
  await heard(first, "hello");
  await proxied(socks("open"), byName);
  await heard(first, "ended ");
  await using second = guest.begin(byNameTalk);
  await heard(second, "hello");
  await proxied(socks("open"), { ...byName, allowOut: ["internet.test"] });
  await heard(second, "ended ");
});

/** What the guest sees from now on, one connection after the other. */
const looking = `
const { connect } = require("node:net");
const look = () => {
  const socket = connect(80, "${world.internet}");
  socket.on("data", (data) => process.stdout.write(data)).on("error", (error) => console.log(error.code)).on("close", () => setTimeout(look, 5));
};
look();
`;

test("a host agent that ends and comes back lets nothing leave directly in between", async () => {
  const policy = { ...openEgress, proxy: socks("open") };
  await lab.setEgress(policy);
  await using eager = guest.begin(looking);
  await using before = guest.begin(talk);
  await heard(eager, viaProxy);
  await heard(before, "hello");
  await lab.restart([{ index: lab.slot.index, policy }], async () => {
    await heard(before, "ended ");
    expect(await guest.fetch(world.internet)).toMatch(/^refused: ECONN/);
  });
  expect(await guest.fetch(world.internet), "until its policy is in force again").toMatch(/^refused: ECONN/);
  expect(await guest.fetch(world.resolver, 53)).toBe(direct);
  await lab.setEgress(policy);
  expect(await guest.fetch(world.internet)).toBe(viaProxy);
  expect(eager.output).not.toContain(direct.trim());
});

test("changes from one proxy to another, and of what is allowed, let nothing leave directly in between", async () => {
  await proxied(socks("open"));
  await using eager = guest.begin(looking);
  await heard(eager, viaProxy);
  for (let round = 0; round < 8; round += 1) {
    await proxied(round % 2 === 0 ? socks("password", proxyCredentials) : http("open"), { denyOut: [`192.0.2.${round}`] });
    const { length } = eager.output;
    await expect.poll(() => eager.output.slice(length), { timeout: 30_000 }).toContain(viaProxy);
  }
  expect(eager.output).not.toContain(direct.trim());
});

test("a sandbox whose proxy was taken away can be taken over, and gets one again", async () => {
  await lab.restart([{ index: lab.slot.index, policy: { ...openEgress, proxy: socks("open") } }]);
  await lab.setEgress(openEgress);
  expect(await guest.fetch(world.internet)).toBe(direct);
  await proxied(socks("open"));
  expect(await guest.fetch(world.internet)).toBe(viaProxy);
});

test("a change that the kernel refuses leaves the way out that was", async () => {
  const other = await lab.plug(2);
  const namespace = namespaceName(lab.instance, other.slot.index);
  // A way back from `refuse` to `egress`: rules that go there would make a loop, which the kernel never takes
  await run(["ip", "netns", "exec", namespace, "nft", "add rule inet roost refuse goto egress"]);
  await expect(lab.network.setEgress(other.slot, { ...openEgress, denyOut: ["192.0.2.1"], proxy: socks("open") })).rejects.toThrow("nft");
  expect(await other.guest.fetch(world.internet)).toBe(direct);
  await lab.network.release(other.slot);
});

test.each([
  ["SOCKS5", () => socks("early")],
  ["HTTP CONNECT", () => http("early")],
])("bytes right behind a proxy's answer arrive, before the others (%s)", async (_name, proxy) => {
  await proxied(proxy());
  expect(await guest.fetch(world.internet)).toBe(earlyText + viaProxy);
});

test.each([
  ["SOCKS5", () => socks("open")],
  ["HTTP CONNECT", () => http("open")],
])("all bytes arrive in both directions, at the pace of a slow reader, and an end is passed on (%s)", async (_name, proxy) => {
  await proxied(proxy());
  const script = `
const { createHash, randomBytes } = require("node:crypto"), { Transform } = require("node:stream");
const sent = createHash("sha256"), received = createHash("sha256");
let count = 0;
const socket = require("node:net").connect({ port: 7, host: "${world.internet}", allowHalfOpen: true }, async () => {
  for (let part = 0; part < 256; part += 1) {
    const chunk = randomBytes(65536);
    sent.update(chunk);
    if (!socket.write(chunk)) await new Promise((resolve) => socket.once("drain", resolve));
  }
  socket.end();
});
const slow = new Transform({ transform(chunk, _encoding, done) { count += chunk.length; received.update(chunk); setTimeout(done, 1); } });
socket.pipe(slow).resume().on("end", () => console.log(count, sent.digest("hex") === received.digest("hex")));
socket.on("error", (error) => console.log("ended " + error.code));
`;
  expect(await guest.run(script)).toBe(`${256 * 65_536} true\n`);
});

test("connections by name and by address are counted together", async () => {
  await proxied(socks("hang"), { allowOut: ["internet.test", world.elsewhere], denyOut: [allTraffic] });
  const half = connectionsMax / 2;
  const script = `
let reset = 0;
for (let index = 0; index < ${connectionsMax + 20}; index += 1) {
  const socket = require("node:net").connect(443, index < ${half} ? "${world.internet}" : "${world.elsewhere}");
  socket.on("error", () => { reset += 1; if (reset === 20) setTimeout(() => { console.log(reset); process.exit(); }, 500); });
}
setTimeout(() => { console.log("only", reset, "were reset"); process.exit(); }, 8000);
`;
  expect(await guest.run(script)).toBe("20\n");
});

test("nothing is left in the host's table of a slot that is given back", async () => {
  const other = await lab.plug(3);
  await lab.network.setEgress(other.slot, { ...openEgress, proxy: socks("open") });
  const table = async () => run(["nft", "list", "table", "inet", hostTableName(lab.instance)]);
  expect(await table()).toContain(`${other.slot.address} : `);
  await lab.network.release(other.slot);
  expect((await table()).split("\n").filter((line) => line.includes(other.slot.address))).toEqual([]);
});
