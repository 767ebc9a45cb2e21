import { connect } from "node:net";

import { allTraffic } from "@roost/contract";
import { run } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { hostTableName } from "../instance.ts";
import { openEgress } from "../network/egress-rules.ts";
import { clientHello } from "../testing/client-hello.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { world, type LabGuest } from "../testing/network-lab.ts";
import { connectionsMax } from "./egress-gateway.ts";

let lab: EgressLab;
let guest: LabGuest;

beforeAll(async () => {
  lab = await EgressLab.create("rg");
  ({ guest } = lab);
});

afterAll(async () => lab?.[Symbol.asyncDispose]());

beforeEach(async () => {
  await allow("internet.test", "*.internet.test");
});

const allow = (...allowOut: string[]) => lab.setEgress({ ...openEgress, allowOut, denyOut: [allTraffic] });

/** What comes back to the first bytes of a connection, as far as it is text; or the error it ended with. */
const say = (bytes: Buffer, address: string, port: number) =>
  guest.run(`
const socket = require("node:net").connect(${port}, "${address}", () => socket.write(Buffer.from("${bytes.toString("hex")}", "hex")));
socket.setTimeout(5000, () => socket.destroy(Object.assign(new Error(), { code: "TIMEOUT" })));
socket.on("data", (chunk) => process.stdout.write(chunk.toString("latin1")));
socket.on("error", (error) => console.log("refused: " + error.code));
socket.on("end", () => socket.destroy());
`);
const get = (host: string, address: string = world.internet, port = 80) =>
  say(Buffer.from(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`), address, port);
const hello = async (host: string | undefined, address: string = world.internet) => say(await clientHello(host), address, 443);

/** The host's side of the connection: where the gateway is. */
const viaGateway = /^world sees 11\.77\.\d\.\d\n$/;
/** A fatal TLS alert: access denied */
const alert = "\x15\x03\x03\x00\x02\x02\x31";

test("a server is reached by an allowed name, on port 80 and 443", async () => {
  expect(await get("internet.test")).toMatch(viaGateway);
  expect(await get("WWW.internet.test:80")).toMatch(viaGateway);
  expect(await hello("internet.test")).toMatch(viaGateway);
});

test("other names are refused, and the guest is told", async () => {
  expect(await get("elsewhere.test")).toMatch(/^HTTP\/1\.1 403 Forbidden[^]*does not allow elsewhere\.test\n$/);
  expect(await get("notinternet.test")).toContain("403 Forbidden");
  expect(await hello("elsewhere.test")).toBe(alert);
  expect(await hello(undefined)).toBe(alert);
  expect(await get(world.internet), "an address is no name").toContain("403 Forbidden");
});

test("which address a name has is decided by the host, not by the guest", async () => {
  expect(await get("internet.test", world.elsewhere)).toMatch(viaGateway);
  await allow("elsewhere.test");
  expect(await get("elsewhere.test", "11.99.99.99"), "an address where nothing is").toMatch(viaGateway);
});

test("a name does not lead to what no guest reaches", async () => {
  await allow("private.test", "host.test", "mixed.test", "unknown.test");
  expect(await get("private.test")).toMatch(/403 Forbidden[^]*no sandbox can reach/);
  expect(await get("host.test")).toMatch(/403 Forbidden[^]*no sandbox can reach/);
  expect(await hello("private.test")).toBe(alert);
  expect(await get("mixed.test")).toMatch(viaGateway);
  expect(await get("unknown.test")).toMatch(/502 Bad Gateway[^]*could not be resolved/);
  expect(await hello("unknown.test"), "cut, which may look like an end").toMatch(/^(refused: ECONNRESET\n)?$/);
});

test("names hold for ports 80 and 443 only; addresses for all", async () => {
  expect(await get("internet.test", world.internet, 7)).toMatch(/^refused: E/);
  await allow("internet.test", world.elsewhere);
  expect(await guest.fetch(world.elsewhere), "goes there directly").toBe("world sees 11.77.2.0\n");
  expect(await get("internet.test")).toMatch(viaGateway);
});

test("names that are allowed can be resolved while everything else is denied, and private addresses stay refused", async () => {
  expect(await guest.fetch(world.resolver, 53), "directly, or by TCP").toMatch(/^refused: E/);
  const resolve = `const { Resolver } = require("node:dns"); const resolver = new Resolver(); resolver.setServers(["${world.resolver}"]); resolver.resolve4("internet.test", (error, found) => console.log(error ?? found.join()))`;
  expect(await guest.run(resolve)).toBe(`${world.internet}\n`);
  expect(await get("internet.test", "10.77.0.1")).toMatch(/^refused: E/);
});

test("a connection ends when its name is no longer allowed, and goes on when something else changes", async () => {
  const talk = `
const socket = require("node:net").connect(80, "${world.internet}", () => socket.write("GET / HTTP/1.1\\r\\nHost: stream.test\\r\\n\\r\\n"));
socket.on("data", (data) => { process.stdout.write(String(data)); setTimeout(() => socket.write("more "), 50); });
let how = "by its end"; // Node's reset may be preceded by one
socket.on("error", (error) => (how = error.code));
socket.on("close", () => process.stdout.write("ended " + how + "\\n", () => process.exit()));
`;
  await allow("stream.test", "internet.test");
  await using program = guest.begin(talk);
  await expect.poll(() => program.output, { timeout: 30_000 }).toContain("more more");
  await allow("stream.test");
  const length = program.output.length;
  await expect.poll(() => program.output.length, { timeout: 30_000 }).toBeGreaterThan(length);
  await lab.setEgress(openEgress);
  const later = program.output.length;
  await expect.poll(() => program.output.length, { timeout: 30_000 }).toBeGreaterThan(later);
  await lab.setEgress({ ...openEgress, denyOut: [allTraffic] });
  await expect.poll(() => program.output, { timeout: 30_000 }).toContain("ended ");
});

test("all bytes arrive in both directions, at the pace of a slow reader, and an end is passed on", async () => {
  await allow("stream.test");
  const script = `
const { createHash, randomBytes } = require("node:crypto"), { Transform } = require("node:stream");
const sent = createHash("sha256"), received = createHash("sha256");
const head = Buffer.from("POST / HTTP/1.1\\r\\nHost: stream.test\\r\\n\\r\\n");
let count = 0;
const socket = require("node:net").connect({ port: 80, host: "${world.internet}", allowHalfOpen: true }, async () => {
  for (let part = 0; part < 256; part += 1) {
    const chunk = part === 0 ? head : randomBytes(65536);
    sent.update(chunk);
    if (!socket.write(chunk)) await new Promise((resolve) => socket.once("drain", resolve));
  }
  socket.end();
});
const slow = new Transform({ transform(chunk, _encoding, done) { count += chunk.length; received.update(chunk); setTimeout(done, 1); } });
socket.pipe(slow).resume().on("end", () => console.log(count, sent.digest("hex") === received.digest("hex")));
socket.on("error", (error) => console.log("ended " + error.code));
`;
  const headLength = "POST / HTTP/1.1\r\nHost: stream.test\r\n\r\n".length;
  expect(await guest.run(script)).toBe(`${255 * 65_536 + headLength} true\n`);
});

test("more connections than one guest may have are reset, and room comes back when they end", async () => {
  const script = `
let open = 0, ended = 0;
const sockets = Array.from({ length: ${connectionsMax + 20} }, () => {
  const socket = require("node:net").connect(443, "${world.internet}", () => { open += 1; });
  socket.resume().on("error", () => undefined); // closes then; so does one that is only ended, which Node's reset may do
  socket.on("close", () => { ended += 1; if (ended === 20) setTimeout(() => { console.log(open - ended >= 0, ended); process.exit(); }, 500); });
  return socket;
});
setTimeout(() => { console.log("only", ended, "were reset"); process.exit(); }, 20000);
`;
  expect(await guest.run(script)).toBe("true 20\n");
  expect(await get("internet.test")).toMatch(viaGateway);
});

test("nobody but the slot is served, and nothing is left when the slot is given back", async () => {
  const other = await lab.network.acquire();
  await lab.network.setEgress(other, { ...openEgress, allowOut: ["internet.test"], denyOut: [allTraffic] });
  const table = hostTableName(lab.instance);
  const elements = async () => [
    ...(await run(["nft", "list", "set", "inet", table, "egress_listeners"])).matchAll(/(tcp|udp) \. ([\d.]+) \. (\d+)/g),
  ];
  const listeners = await elements();
  expect(listeners).toHaveLength(8);
  const listener = listeners.find(([, protocol]) => protocol === "tcp");
  const socket = connect({ host: listener?.[2] ?? "", port: Number(listener?.[3]) });
  const ended = await new Promise<string>((resolve) => {
    socket.once("error", (error: NodeJS.ErrnoException) => resolve(String(error.code)));
    socket.once("end", () => resolve("end"));
  });
  expect(ended).toBe("ECONNRESET");
  await lab.network.release(other);
  expect(await elements()).toHaveLength(4);
});
