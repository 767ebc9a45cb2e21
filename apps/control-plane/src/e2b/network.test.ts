import { allTraffic, networkPolicySchema } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { afterAll, beforeAll, expect, test } from "vitest";

import { hostError } from "../testing/fake-images.ts";
import { World } from "../testing/world.ts";
import { Networks } from "../sandboxes/network.ts";
import { NetworkSecrets } from "../sandboxes/network-secrets.ts";
import { networkFromE2b, networkToE2b } from "./network.ts";

const secretKey = "ab".repeat(32);
let world: World;
beforeAll(async () => {
  world = await World.start({ options: { secretKey } });
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown> | undefined;
}

async function ask(method: string, path: string, body?: unknown): Promise<Answer> {
  const answer = await world.request(method, path, body);
  const text = await answer.text();
  return { status: answer.status, body: text === "" ? undefined : (JSON.parse(text) as Record<string, unknown>) };
}

async function create(more: object = {}): Promise<string> {
  const { status, body } = await ask("POST", "/sandboxes", { templateID: "base", timeout: 300, secure: true, ...more });
  expect(status, JSON.stringify(body)).toBe(201);
  return String(body?.["sandboxID"]);
}

const onHost = (id: string) => {
  const { allowOut, denyOut } = world.host.sandboxes.get(id)?.spec?.network ?? { allowOut: [], denyOut: [] };
  return { allowOut, denyOut };
};
const proxyOnHost = (id: string) => {
  const { protocol, address, username, password } = world.host.sandboxes.get(id)?.spec?.network?.proxy ?? {};
  return { protocol, address, username, password };
};
const rulesOnHost = (id: string) => {
  const { rules = {} } = world.host.sandboxes.get(id)?.spec?.network ?? {};
  return Object.fromEntries(Object.entries(rules).map(([domain, { headers }]) => [domain, headers]));
};
const rule = (headers: Record<string, string>) => ({ transform: { headers } });
const elevenDomains = Array.from({ length: 11 }, (_, index) => [`a${index}.test`, [rule({ a: "b" })]] as const);
const twentyOneHeaders = Array.from({ length: 21 }, (_, index) => [`a${index}`, "b"] as const);
const detail = async (id: string) => (await ask("GET", `/sandboxes/${id}`)).body;

test("E2B's words become a policy, and that becomes E2B's words again", () => {
  expect(networkFromE2b({})).toEqual({ ...networkPolicySchema.parse({}), is_public: true });
  const policy = networkFromE2b({
    network: { allowOut: ["Example.com"], denyOut: [allTraffic], allowPublicTraffic: false, maskRequestHost: "localhost:${PORT}" },
    allow_internet_access: true,
    secure: true,
  });
  expect(policy).toEqual({
    ...networkPolicySchema.parse({}),
    allow_internet: true,
    allow_out: ["example.com"],
    deny_out: [allTraffic],
    is_public: false,
    mask_request_host: "localhost:${PORT}",
    egress_proxy: null,
  });
  expect(networkToE2b(policy)).toEqual({
    allowOut: ["example.com"],
    denyOut: [allTraffic],
    allowPublicTraffic: false,
    maskRequestHost: "localhost:${PORT}",
  });
});

test("a create's policy reaches its host and is shown", async () => {
  const id = await create({ network: { allowOut: ["203.0.113.7", "*.example.com"], denyOut: [allTraffic], somethingNew: 1 } });
  expect(onHost(id)).toEqual({ allowOut: ["203.0.113.7", "*.example.com"], denyOut: [allTraffic] });
  expect(await detail(id)).toMatchObject({
    allowInternetAccess: true,
    network: { allowOut: ["203.0.113.7", "*.example.com"], denyOut: [allTraffic], allowPublicTraffic: true },
  });
});

test("no internet access is denying everything", async () => {
  const id = await create({ allow_internet_access: false, network: null });
  expect(onHost(id)).toEqual({ allowOut: [], denyOut: [allTraffic] });
  expect(await detail(id)).toMatchObject({ allowInternetAccess: false, network: { denyOut: [] } });
  const other = await create({ allow_internet_access: false, network: { allowOut: ["example.com"] } });
  expect(onHost(other)).toEqual({ allowOut: ["example.com"], denyOut: [allTraffic] });
});

test("ports that are not public have a token", async () => {
  const { body } = await ask("POST", "/sandboxes", { templateID: "base", secure: true, network: { allowPublicTraffic: false } });
  expect(body?.["trafficAccessToken"]).toMatch(/^[0-9a-f]{64}$/);
  const open = await ask("POST", "/sandboxes", { templateID: "base", secure: true, network: { allowPublicTraffic: true } });
  expect(open.body?.["trafficAccessToken"]).toBeNull();
});

test.each<[object, RegExp]>([
  [{ network: { allowOut: ["nonsense"] } }, /^network\.allowOut\.0: "nonsense" is not accepted: must be an IPv4 address/],
  [{ network: { allowOut: ["::1"] } }, /^network\.allowOut\.0: "::1" is not accepted: sandboxes have no IPv6/],
  [{ network: { denyOut: ["1.1.1.1", "example.com"] } }, /^network\.denyOut\.1: "example\.com" is not accepted: a domain cannot be denied/],
  [{ network: { denyOut: "1.1.1.1" } }, /^network\.denyOut: "1\.1\.1\.1" is not accepted: invalid input: expected array/],
  [{ network: { allowOut: ["1.1.1.1", "example.com"] } }, /^network\.allowOut: "example\.com" is not accepted: .*deny 0\.0\.0\.0\/0/],
  [{ network: { allowPublicTraffic: false }, secure: false }, /^network\.allowPublicTraffic: false needs secure: true$/],
  [{ network: { maskRequestHost: "a b" } }, /^network\.maskRequestHost: "a b" is not accepted/],
  [
    { network: { egressProxy: { address: "proxy.example" } } },
    /^network\.egressProxy\.address: its value is not accepted: must be host:port/,
  ],
  [{ network: { egressProxy: "socks5://a:secret@b.example:1" } }, /^network\.egressProxy: its value is not accepted: invalid input/],
  [{ network: { egressProxy: {} } }, /^network\.egressProxy\.address is missing/],
  [
    { network: { egressProxy: { address: "proxy.example:1080", password: "secret" } } },
    /^network\.egressProxy\.username is missing: a password needs a username$/,
  ],
  [
    { network: { egressProxy: { address: "proxy.example:1080", username: "a", password: `secret${"x".repeat(250)}` } } },
    /^network\.egressProxy\.password: its value is not accepted: too big/,
  ],
  [{ network: { httpsPorts: [3000] } }, /^network\.httpsPorts: an array is not accepted: .*leave it out/],
  [{ network: { rules: { "example.com": [{}, {}] } } }, /^network\.rules\.example\.com: its value is not accepted: at most one rule/],
  [{ network: { rules: { example: [rule({ a: "b" })] } } }, /^network\.rules: "example" is not accepted: must be a domain/],
  [{ network: { rules: { "*": [rule({ a: "b" })] } } }, /^network\.rules: "\*" is not accepted: must be a domain/],
  [{ network: { rules: { [`${"a.".repeat(64)}test`]: [rule({ a: "b" })] } } }, /^network\.rules: .* is not accepted: too big/],
  [{ network: { rules: Object.fromEntries(elevenDomains) } }, /^network\.rules: its value is not accepted: at most 10 domains/],
  [{ network: { rules: { "a.test": [rule({ a: "1" })], "A.test": [rule({ a: "1" })] } } }, /a domain is named twice/],
  [
    { network: { rules: { "a.test": [rule({ a: "secret\r\nb: c" })] } } },
    /^network\.rules\.a\.test\.0\.transform\.headers\.a: its value is not accepted: is no value/,
  ],
  [{ network: { rules: { "a.test": [rule({ a: " secret" })] } } }, /its value is not accepted: is no value/],
  [{ network: { rules: { "a.test": [rule({ a: `secret${"x".repeat(2048)}` })] } } }, /its value is not accepted: too big/],
  [
    { network: { rules: { "a.test": [rule({ a: "secret ${e2b.identity.tokens.aws}" })] } } },
    /its value is not accepted: placeholders such as/,
  ],
  [{ network: { rules: { "a.test": [rule({ "X y": "secret" })] } } }, /headers: "X y" is not accepted: is no name of a header/],
  [{ network: { rules: { "a.test": [rule({ a: "1", A: "2" })] } } }, /a header is named twice/],
  [{ network: { rules: { "a.test": [rule(Object.fromEntries(twentyOneHeaders))] } } }, /at most 20 headers/],
  ...["Host", "content-length", "Transfer-Encoding", "connection", "Upgrade", "TE", "Sec-WebSocket-Key"].map(
    (name) => [{ network: { rules: { "a.test": [rule({ [name]: "secret" })] } } }, /is not accepted: cannot be set/] as [object, RegExp],
  ),
  [{ network: "none" }, /^network: "none" is not accepted/],
])("a create with %j is a 400", async (more, message) => {
  const { status, body } = await ask("POST", "/sandboxes", { templateID: "base", secure: true, ...more });
  expect(body).toMatchObject({ code: 400, message: expect.stringMatching(message) as string });
  expect(JSON.stringify(body)).not.toContain("secret");
  expect(status).toBe(400);
});

test("headers reach their host, by lower-case domains, and are shown without their values", async () => {
  const rules = {
    "API.example.com": [rule({ Authorization: "Bearer secret" })],
    "*.example.com": [rule({ "x-key": "other secret" })],
    "a.test": [{}],
  };
  const id = await create({ network: { rules } });
  expect(rulesOnHost(id)).toEqual({ "api.example.com": { Authorization: "Bearer secret" }, "*.example.com": { "x-key": "other secret" } });
  const shown = await detail(id);
  expect(shown?.["network"]).toMatchObject({
    rules: { "api.example.com": [rule({ Authorization: "<redacted>" })], "*.example.com": [rule({ "x-key": "<redacted>" })] },
  });
  const native = await ask("GET", `/v1/sandboxes/${id}/network`);
  expect(native.body).toMatchObject({ rules: { "api.example.com": { headers: { Authorization: "<redacted>" } } } });
  for (const each of [shown, native.body, (await ask("GET", `/v1/sandboxes/${id}`)).body])
    expect(JSON.stringify(each)).not.toContain("secret");
  expect(
    (await ask("PUT", `/sandboxes/${id}/network`, { rules: { "api.example.com": [rule({ Authorization: "<redacted>" })] } })).status,
  ).toBe(400);
  expect((await ask("PUT", `/sandboxes/${id}/network`, { rules: { "api.example.com": [rule({ a: "newer secret" })] } })).status).toBe(204);
  expect(rulesOnHost(id)).toEqual({ "api.example.com": { a: "newer secret" } });
  expect((await ask("PUT", `/sandboxes/${id}/network`, {})).status).toBe(204);
  expect(rulesOnHost(id)).toEqual({});
});

test("the database has neither passwords nor values, and each sandbox's are sealed for it alone", async () => {
  const id = await create({ network: { egressProxy, rules: { "api.example.com": [rule({ a: "secret" })] } } });
  const [child] = (await ask("POST", `/sandboxes/${id}/fork`, { count: 1 })).body as unknown as { sandbox?: { sandboxID: string } }[];
  const childId = child?.sandbox?.sandboxID ?? "";
  const rows = await world.database.db.selectFrom("sandbox").select(["id", "network"]).where("id", "in", [id, childId]).execute();
  expect(rows).toHaveLength(2);
  const secrets = new NetworkSecrets(secretKey);
  const [one, other] = rows;
  for (const row of rows) {
    expect(JSON.stringify(row)).not.toContain("secret");
    expect(secrets.open(row.network, row.id)).toMatchObject({
      egress_proxy: egressProxy,
      rules: { "api.example.com": { headers: { a: "secret" } } },
    });
  }
  expect(() => secrets.open(one?.network ?? {}, other?.id ?? "")).toThrow("unable to authenticate");
  expect((await ask("PUT", `/sandboxes/${childId}/network`, { egressProxy })).status).toBe(204);
  const after = await world.database.db.selectFrom("sandbox").select("network").where("id", "=", childId).executeTakeFirstOrThrow();
  expect(JSON.stringify(after)).not.toContain("secret");
  for (const table of ["audit_entry", "operation", "event"] as const)
    expect(JSON.stringify(await world.database.db.selectFrom(table).selectAll().execute())).not.toContain("secret");
});

test("a password that an earlier version wrote down in the clear is sealed at the next start", async () => {
  const id = await create({ network: { egressProxy } });
  const clear = { ...networkPolicySchema.parse({}), egress_proxy: { protocol: "socks5", ...egressProxy } };
  const read = async () => world.database.db.selectFrom("sandbox").select("network").where("id", "=", id).executeTakeFirstOrThrow();
  await world.database.db
    .updateTable("sandbox")
    .set({ network: JSON.stringify(clear) })
    .where("id", "=", id)
    .execute();
  const secrets = new NetworkSecrets(secretKey);
  expect(secrets.open((await read()).network, id), "is read as it is").toEqual(clear);
  const networks = new Networks({ database: world.database, records: none, hosts: none, secrets });
  await networks.sealOld();
  const { network } = await read();
  expect(JSON.stringify(network)).not.toContain("secret");
  expect(secrets.open(network, id)).toEqual(clear);
  await networks.sealOld();
  expect((await read()).network, "once").toEqual(network);
});

const none = undefined as never;
const egressProxy = { address: "proxy.example.com:1080", username: "someone", password: "secret" };

test("a proxy reaches its host whole, and is shown without its password", async () => {
  const id = await create({ network: { egressProxy } });
  expect(proxyOnHost(id)).toEqual({ protocol: "socks5", ...egressProxy });
  const shown = await detail(id);
  expect(shown).toMatchObject({ network: { egressProxy: { address: "proxy.example.com:1080", username: "someone" } } });
  const listed = await ask("GET", "/v2/sandboxes");
  const native = await ask("GET", `/v1/sandboxes/${id}`);
  expect(native.status).toBe(200);
  for (const each of [shown, listed.body, native.body]) expect(JSON.stringify(each)).not.toContain("secret");

  expect(
    (await ask("PUT", `/sandboxes/${id}/network`, { egressProxy: { address: "192.0.2.7:1", username: null, password: null } })).status,
  ).toBe(204);
  expect(proxyOnHost(id)).toEqual({ protocol: "socks5", address: "192.0.2.7:1", username: undefined, password: undefined });
  expect((await ask("PUT", `/sandboxes/${id}/network`, { denyOut: ["1.1.1.1"] })).status).toBe(204);
  expect(proxyOnHost(id).address, "cleared, as everything that is left out").toBeUndefined();
  expect((await detail(id))?.["network"]).not.toHaveProperty("egressProxy");
});

test("a proxy may be an HTTP proxy, which E2B's are not", async () => {
  const id = await create({ network: { egressProxy: { protocol: "http", address: "proxy.example.com:3128" } } });
  expect(proxyOnHost(id)).toMatchObject({ protocol: "http", address: "proxy.example.com:3128" });
  expect(await detail(id)).toMatchObject({ network: { egressProxy: { protocol: "http", address: "proxy.example.com:3128" } } });
});

test("children have their parent's proxy", async () => {
  const id = await create({ network: { egressProxy } });
  const [child] = (await ask("POST", `/sandboxes/${id}/fork`, { count: 1 })).body as unknown as { sandbox?: { sandboxID: string } }[];
  expect((await detail(child?.sandbox?.sandboxID ?? ""))?.["network"]).toMatchObject({ egressProxy: { address: egressProxy.address } });
});

test("a proxy that the host does not take leaves no sandbox, and the policy before", async () => {
  const message = "the egress proxy is not accepted: it is private";
  const before = ((await ask("GET", "/sandboxes")).body as unknown as unknown[]).length;
  world.host.createFailure = hostError("egress_proxy_invalid", message);
  expect(await ask("POST", "/sandboxes", { templateID: "base", secure: true, network: { egressProxy } })).toEqual({
    status: 400,
    body: { code: 400, error_code: "egress_proxy_invalid", message },
  });
  expect((await ask("GET", "/sandboxes")).body).toHaveLength(before);
});

test("a policy is replaced as a whole; who may reach ports stays", async () => {
  const id = await create({ network: { denyOut: ["1.1.1.1"], allowPublicTraffic: false, maskRequestHost: "a.test" } });
  expect(
    await ask("PUT", `/sandboxes/${id}/network`, {
      allowOut: ["example.com"],
      allow_internet_access: false,
      rules: { "example.com": [{}] },
      egressProxy: null,
    }),
  ).toEqual({
    status: 204,
    body: undefined,
  });
  expect(onHost(id)).toEqual({ allowOut: ["example.com"], denyOut: [allTraffic] });
  expect(await detail(id)).toMatchObject({
    allowInternetAccess: false,
    network: { allowOut: ["example.com"], denyOut: [], allowPublicTraffic: false, maskRequestHost: "a.test" },
  });
  expect((await ask("PUT", `/sandboxes/${id}/network`, {})).status).toBe(204);
  expect(onHost(id)).toEqual({ allowOut: [], denyOut: [] });
  expect(await detail(id)).toMatchObject({ allowInternetAccess: true, network: { allowOut: [], denyOut: [] } });
});

test("of a paused one, too; not while it changes, and not of one that is gone", async () => {
  const id = await create();
  world.host.change(id, SandboxState.PAUSED, { timePausedMs: 1n });
  await expect.poll(async () => (await detail(id))?.["state"], { timeout: 30_000 }).toBe("paused");
  expect((await ask("PUT", `/sandboxes/${id}/network`, { denyOut: ["1.1.1.1"] })).status).toBe(204);
  expect(onHost(id)).toEqual({ allowOut: [], denyOut: ["1.1.1.1"] });
  world.host.change(id, SandboxState.RESUMING);
  await expect
    .poll(async () => (await ask("PUT", `/sandboxes/${id}/network`, {})).body, { timeout: 30_000 })
    .toMatchObject({ code: 409, error_code: "sandbox_wrong_state" });
  world.host.change(id, SandboxState.RUNNING);
  await expect.poll(async () => (await detail(id))?.["state"], { timeout: 30_000 }).toBe("running");
  expect((await ask("DELETE", `/sandboxes/${id}`)).status).toBe(204);
  expect(await ask("PUT", `/sandboxes/${id}/network`, {})).toMatchObject({ status: 404, body: { code: 404 } });
  expect(await ask("PUT", "/sandboxes/inothere/network", {})).toMatchObject({ status: 404, body: { code: 404 } });
});

test("a policy that the host does not take is not recorded", async () => {
  const id = await create({ network: { denyOut: ["1.1.1.1"] } });
  expect((await ask("PUT", `/sandboxes/${id}/network`, { allowOut: ["example.com"] })).body).toMatchObject({ code: 400 });
  world.host.isUnreachable = true;
  try {
    expect((await ask("PUT", `/sandboxes/${id}/network`, {})).status).toBe(503);
  } finally {
    world.host.isUnreachable = false;
  }
  expect(await detail(id)).toMatchObject({ network: { denyOut: ["1.1.1.1"] } });
});

test("of many changes at once the last one is what host and record have; too many are refused", async () => {
  const id = await create();
  const answers = await Promise.all(
    Array.from({ length: 24 }, (_, index) => ask("PUT", `/sandboxes/${id}/network`, { denyOut: [`203.0.113.${index}`] })),
  );
  const refused = answers.filter(({ status }) => status === 429).length;
  expect(answers.filter(({ status }) => status === 204).length + refused).toBe(24);
  const { denyOut } = onHost(id);
  expect(await detail(id)).toMatchObject({ network: { denyOut } });
});
