import { allTraffic, type HeaderRules } from "@roost/contract";
import { must, poll } from "@roost/kit";
import {
  headerValues,
  proxyCredentials,
  proxyServersScript,
  securedRequests,
  securedServerScript,
  TestAuthority,
  type SecuredRequest,
} from "@roost/testing";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { openEgress, type HostEgress } from "../network/egress-rules.ts";
import { EgressLab } from "../testing/egress-lab.ts";
import { world, type LabGuest, type LabProgram } from "../testing/network-lab.ts";
import { authorityFor, type Authority } from "./sandbox-authority.ts";
import { UpstreamTrust } from "./upstream-trust.ts";

const canary = "Bearer canary-8f1d60c2";
const api = "api.secured.test";
const other = "other.secured.test";
const rules: HeaderRules = { [api]: { headers: { Authorization: canary, "X-Team": "seven" } } };

let lab: EgressLab;
let guest: LabGuest;
let server: LabProgram;
let upstream: TestAuthority;
let authority: Authority;
/** Requests that the server had before the test */
let before: number;

beforeAll(async () => {
  upstream = await TestAuthority.create();
  lab = await EgressLab.create("ri", { upstreamTrust: new UpstreamTrust([upstream.caPem]) });
  ({ guest } = lab);
  server = lab.lab.beginInWorld(securedServerScript(await upstream.serverIdentity([api, other])));
  await poll({ what: "the server", timeoutMs: 30_000 }, () => (server.output.includes("ready") ? true : undefined));
  authority = must(await authorityFor([api], null), "an authority");
});

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
  await lab?.[Symbol.asyncDispose]();
});

beforeEach(async () => {
  before = securedRequests(server.output).length;
  await set({});
});

const set = (policy: Partial<HostEgress>) => lab.setEgress({ ...openEgress, rules, authority, ...policy });

/** Requests of this test, once there are as many. */
async function received(count: number): Promise<readonly SecuredRequest[]> {
  const read = () => securedRequests(server.output).slice(before);
  await poll({ what: `${count} requests`, timeoutMs: 30_000 }, () => (read().length >= count ? true : undefined));
  return read();
}

/** Beginning of a Node program in the guest: `ask(options, body)` makes a request and answers what came back. */
const prelude = (caPem: string) => `
const https = require("node:https"), tls = require("node:tls");
const ca = ${JSON.stringify(caPem)};
const ask = (options, body) => new Promise((resolve) => {
  const request = https.request({ host: "${world.secured}", servername: "${api}", setHost: false, headers: { host: "${api}" }, agent: false, ca, ...options }, (response) => {
    let text = "";
    response.setEncoding("latin1").on("data", (chunk) => (text += chunk)).on("end", () => resolve({ status: response.statusCode, headers: response.headers, text }));
    response.on("error", (error) => resolve({ status: response.statusCode, broken: error.code }));
  });
  request.on("error", (error) => resolve({ error: error.code, message: error.message }));
  request.end(body);
});
`;
interface Asked {
  readonly status?: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly text: string;
  readonly error?: string;
  readonly message?: string;
  readonly broken?: string;
}
const inGuest = async (script: string, caPem = authority.certificatePem) =>
  JSON.parse(await guest.run(`${prelude(caPem)}(async () => console.log(JSON.stringify(await (async () => {${script}})())))()`)) as unknown;
const ask = async (options: object = {}, caPem?: string) => (await inGuest(`return ask(${JSON.stringify(options)})`, caPem)) as Asked;
/** What comes back to bytes over TLS. */
const say = async (text: string) =>
  String(
    await inGuest(`return new Promise((resolve) => {
  let text = "";
  const socket = tls.connect({ host: "${world.secured}", port: 443, servername: "${api}", ca }, () => socket.write(${JSON.stringify(text)}));
  socket.setEncoding("latin1").on("data", (chunk) => (text += chunk)).on("error", () => {}).on("close", () => resolve(text)).on("end", () => resolve(text));
  setTimeout(() => socket.destroy(), 1500);
})`),
  );

test("headers are set in place of the guest's, once, and the rest passes", async () => {
  const answer = await ask({
    path: "/a?b=c",
    headers: { host: api, authorization: "Bearer placeholder", AUTHORIZATION: "again", "x-own": "mine", connection: "close, x-team" },
  });
  expect(answer).toMatchObject({ status: 200, text: "ok\n" });
  const [request] = await received(1);
  if (request === undefined) throw new Error("no request");
  expect(request.url).toBe("/a?b=c");
  expect(headerValues(request, "authorization")).toEqual([canary]);
  expect(headerValues(request, "x-team")).toEqual(["seven"]);
  expect(headerValues(request, "x-own")).toEqual(["mine"]);
  expect(headerValues(request, "host")).toEqual([api]);
});

test("a guest that does not trust the sandbox's authority gets nowhere, and a name without rule keeps its own TLS", async () => {
  expect(await ask({}, upstream.caPem)).toMatchObject({ error: "UNABLE_TO_VERIFY_LEAF_SIGNATURE" });
  const options = { servername: other, headers: { host: other, authorization: "Bearer placeholder" } };
  expect(await ask(options, upstream.caPem)).toMatchObject({ status: 200 });
  const [request] = await received(1);
  expect(request && headerValues(request, "authorization")).toEqual(["Bearer placeholder"]);
});

test("the authority is believed for its domains alone", async () => {
  const otherRules = { [other]: { headers: { authorization: canary } } };
  await set({ rules: otherRules }); // it would sign for a name that it is not limited to
  expect(await ask({ servername: other, headers: { host: other } })).toMatchObject({ message: "permitted subtree violation" });
});

test("the credentials go where the host finds the name, whichever address the guest chose", async () => {
  expect(await ask({ host: world.elsewhere })).toMatchObject({ status: 200, text: "ok\n" });
  expect(await received(1)).toHaveLength(1);
});

test("requests for another host, or that could mean two things, are refused and reach nobody", async () => {
  for (const [headers, status] of [
    [{ host: other }, 421],
    [{ host: [api, other] }, 400],
    [{ host: `${api}:8443` }, 421],
    [{}, 400],
  ] as const)
    expect(await ask({ headers }), JSON.stringify(headers)).toMatchObject({ status });
  expect(await ask({ path: `https://${other}/`, headers: { host: api } })).toMatchObject({ status: 400 });
  expect(await ask({ method: "TRACE" })).toMatchObject({ status: 405 });
  const head = `POST / HTTP/1.1\r\nHost: ${api}\r\n`;
  expect(
    await say(`${head}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: ${api}\r\n\r\n`),
  ).toMatch(/^HTTP\/1.1 400/);
  expect(await say(`${head}Content-Length: 5\r\nContent-Length: 6\r\n\r\n123456`)).toMatch(/^HTTP\/1.1 400/);
  expect(await say(`${head}Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n`)).toMatch(/^HTTP\/1.1 400/);
  expect(await say(`${head}X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`)).toMatch(/^HTTP\/1.1 400/);
  expect(await ask()).toMatchObject({ status: 200 });
  expect((await received(1)).map(({ url }) => url)).toEqual(["/"]);
});

test("bodies are streamed whole in both directions, at the pace of a slow reader", async () => {
  const found = (await inGuest(`
const { createHash, randomBytes } = require("node:crypto");
const sent = createHash("sha256"), got = createHash("sha256");
let length = 0;
return new Promise((resolve) => {
  const request = https.request({ host: "${world.secured}", servername: "${api}", ca, method: "POST", path: "/echo", headers: { host: "${api}" }, agent: false }, (response) => {
    response.on("data", (chunk) => { length += chunk.length; got.update(chunk); response.pause(); setTimeout(() => response.resume(), 1); });
    response.on("end", () => { const digest = sent.digest("hex"); resolve({ length, same: digest === got.digest("hex"), digest, alt: response.headers["alt-svc"] ?? null }); });
  });
  let left = 256;
  const more = () => { while (left > 0) { left -= 1; const chunk = randomBytes(65536); sent.update(chunk); if (!request.write(chunk)) return void request.once("drain", more); } request.end(); };
  more();
});`)) as { readonly length: number; readonly same: boolean; readonly digest: string; readonly alt: string | null };
  expect(found).toMatchObject({ length: 256 * 65_536, same: true, alt: null });
  expect(await received(1)).toMatchObject([{ length: 256 * 65_536, digest: found.digest }]);
});

test("answers pass as they are: redirections, pieces, and an end that came too early is none", async () => {
  expect(await ask({ path: "/redirect" })).toMatchObject({ status: 302, headers: { location: `https://${other}/there` } });
  expect(await ask({ path: "/slow" })).toMatchObject({ text: "one two\n" });
  expect(await ask({ path: "/cut" })).toMatchObject({ status: 200, broken: "ECONNRESET" });
  expect(await ask({ path: "/close" })).toMatchObject({ text: "bye\n" });
});

test("a WebSocket's handshake gets the headers, and its bytes pass", async () => {
  const said = await say(
    `GET /socket HTTP/1.1\r\nHost: ${api}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\nfirst bytes`,
  );
  expect(said).toMatch(/^HTTP\/1.1 101 [^]*sec-websocket-accept: any[^]*\r\n\r\nfirst bytes$/i);
  const [request] = await received(1);
  expect(request && headerValues(request, "authorization")).toEqual([canary]);
  expect(await say(`GET / HTTP/1.1\r\nHost: ${api}\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n`)).toMatch(/^HTTP\/1.1 501/);
});

test("several requests of one connection each get the headers of their moment, and the connection ends with the rule", async () => {
  await using program = guest.begin(`${prelude(authority.certificatePem)}
const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
let connections = 0;
const next = async () => {
  const answer = await ask({ agent, path: "/again" });
  console.log(answer.error ?? answer.status);
  setTimeout(next, 50);
};
next();`);
  await received(2);
  await set({ rules: { [api]: { headers: { authorization: "Bearer other" } } } });
  await poll({ what: "the other value", timeoutMs: 30_000 }, async () => {
    const last = securedRequests(server.output).at(-1);
    return last !== undefined && headerValues(last, "authorization")[0] === "Bearer other" ? true : undefined;
  });
  expect(program.output).not.toMatch(/E[A-Z]+/); // the connection stayed
  await set({ rules: {}, authority: null });
  await poll({ what: "the end of the connection", timeoutMs: 30_000 }, () => (/E[A-Z]+|UNABLE/.test(program.output) ? true : undefined));
  const count = securedRequests(server.output).length;
  expect(headerValues(must(securedRequests(server.output)[count - 1], "a request"), "authorization")).not.toEqual([canary]);
});

test("the policy decides as ever: by name, by the address that the host finds, and not at all", async () => {
  await set({ denyOut: [allTraffic] });
  expect(await ask()).toMatchObject({ error: "ECONNREFUSED" });
  await set({ allowOut: [api], denyOut: [allTraffic] });
  expect(await ask()).toMatchObject({ status: 200 });
  await set({ allowOut: [world.elsewhere], denyOut: [allTraffic] });
  expect(await ask({ host: world.elsewhere }), "the name is at an address that is not allowed").toMatchObject({ status: 403 });
  await set({ denyOut: [world.secured] });
  expect(await ask({ host: world.elsewhere })).toMatchObject({ status: 403 });
  expect(await received(1)).toHaveLength(1);
});

test("a server that is not who it should be is sent nothing", async () => {
  const wrong = "www.internet.test"; // a server that speaks no TLS
  await set({ rules: { [wrong]: { headers: { authorization: canary } } }, authority: await authorityFor([wrong], null) });
  const { certificatePem } = must(await authorityFor([wrong], null), "an authority");
  expect(await ask({ servername: wrong, headers: { host: wrong } }, certificatePem), "another authority than the sandbox's").toMatchObject({
    error: expect.any(String) as string,
  });
  const mine = must(await authorityFor([wrong], null), "an authority");
  await set({ rules: { [wrong]: { headers: { authorization: canary } } }, authority: mine });
  expect(await ask({ servername: wrong, headers: { host: wrong } }, mine.certificatePem)).toMatchObject({ status: 502 });
  const bad = "wrong.secured.test"; // the certificate does not have this name
  const badAuthority = must(await authorityFor([bad], null), "an authority");
  await set({ rules: { [bad]: { headers: { authorization: canary } } }, authority: badAuthority });
  const refused = await ask({ servername: bad, headers: { host: bad } }, badAuthority.certificatePem);
  expect(refused).toMatchObject({ status: 502, text: expect.stringContaining("ERR_TLS_CERT_ALTNAME_INVALID") as string });
  expect(lab.lab.worldOutput).not.toContain("canary");
});

test("what is not HTTPS is not touched: plain HTTP, TLS without a name, other protocols", async () => {
  const first = await guest.run(`require("node:net").connect(443, "${world.internet}").pipe(process.stdout);`);
  expect(first, "its server speaks first").toBe("world sees 11.77.2.0\n");
  const seen = await guest.run(
    `const socket = require("node:net").connect(80, "${world.streams}", () => socket.end("GET / HTTP/1.1\\r\\nHost: ${api}\\r\\n\\r\\n")); socket.pipe(process.stdout);`,
  );
  expect(seen).toBe(`GET / HTTP/1.1\r\nHost: ${api}\r\n\r\n`);
});

test.each(["socks5", "http"] as const)(
  "through the sandbox's %s proxy the credentials go by name, over TLS from end to end",
  async (protocol) => {
    const listeners = [{ protocol, kind: "password", port: 1_080 }] as const;
    await using proxy = lab.lab.beginInWorld(proxyServersScript({ listeners, address: world.proxies, names: { [api]: world.secured } }));
    await poll({ what: "the proxy", timeoutMs: 30_000 }, () => (proxy.output.includes("ready") ? true : undefined));
    await set({ proxy: { protocol, address: "proxies.test:1080", ...proxyCredentials } });
    expect(await ask()).toMatchObject({ status: 200 });
    const [request] = await received(1);
    expect(request && headerValues(request, "authorization")).toEqual([canary]);
    expect(proxy.output).toContain(`1080 ${api}:443`);
    expect(proxy.output).not.toContain(canary);
  },
);

test("while the host agent is away nothing leaves without its headers, and the next one sets them", async () => {
  const policy = { ...openEgress, rules, authority };
  await lab.restart([{ index: lab.slot.index, policy }], async () => {
    expect(await ask()).toMatchObject({ error: expect.stringMatching(/^ECONN/) as string });
  });
  expect(await ask(), "before its policy is in force").toMatchObject({ error: expect.stringMatching(/^ECONN/) as string });
  await set({});
  expect(await ask()).toMatchObject({ status: 200 });
  expect(await received(1)).toHaveLength(1);
});
