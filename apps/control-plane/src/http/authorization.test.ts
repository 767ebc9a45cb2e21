import {
  endpoints,
  isScope,
  parameterNames,
  platformScopes,
  scopeNames,
  scopesOfRole,
  type Endpoint,
  type EndpointId,
  type Scope,
} from "@roost/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { askEndpoint, bodyOfExample, codeOf, pathOfExample, type Answer } from "../testing/ask-endpoint.ts";
import { endpointExamples } from "../testing/endpoint-examples.ts";
import { plant, signIn, type PathParameter, type Planted } from "../testing/planted.ts";
import { World } from "../testing/world.ts";

/**
 * Who may call what, asked of every endpoint of the table, WebSockets too. A new one needs an `access` and an example (it does not compile without),
 * and what these two claim is tried here.
 */

let world: World;
let first: Planted;
let other: Planted;
/** Session of one of the other team's members */
let member: string;
/** Keys that were good once */
let revoked: string;
let expired: string;
beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0 } });
  first = await plant(world, "first");
  other = await plant(world, "other");
  member = (await signIn(world.database.db, other.ids.user, other.teamId)).token;
  const { apiKeys } = world.controlPlane;
  const gone = await apiKeys.createForPlatform("revoked");
  await apiKeys.revoke(systemCaller(first.teamId), gone.row.id);
  const old = await apiKeys.createForPlatform("expired");
  await world.database.db
    .updateTable("api_key")
    .set({ time_expires: new Date(1_000) })
    .where("id", "=", old.row.id)
    .execute();
  [revoked, expired] = [gone.key, old.key];
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

const all = Object.entries(endpoints) as [EndpointId, Endpoint][];
const only = (wanted: (endpoint: Endpoint, id: EndpointId) => boolean) => all.filter(([id, endpoint]) => wanted(endpoint, id));
const byKey = (key: string) => ({ "x-api-key": key });
const bySession = (token: string) => ({ "x-api-key": "", authorization: `Bearer ${token}` });
const refusals = ["api_key_invalid", "scope_missing", "admin_only", "session_required"];

/** What there is nothing of: so that nothing happens where a request gets through. */
const nowhere: Record<PathParameter, string> = {
  id: "idoesnotexist",
  port: "3000",
  selector: "some-tag",
  name: "no-such-name",
  build: "00000000-0000-4000-8000-000000000000",
  hash: "0".repeat(64),
  tag: "no-such-tag",
  operation: "00000000-0000-4000-8000-000000000000",
  key: "knosuchkey",
  team: `g${"0".repeat(20)}`,
  user: `u${"0".repeat(20)}`,
  invitation: `v${"0".repeat(20)}`,
  session: "00000000-0000-4000-8000-000000000000",
  provider: "github",
  host: "no-such-host",
  channel: `c${"0".repeat(20)}`,
  delivery: "00000000-0000-4000-8000-000000000000",
};

async function ask(id: EndpointId, headers: Record<string, string>, body = bodyOfExample(id, first)): Promise<Answer> {
  return askEndpoint(world, id, pathOfExample(id, first, nowhere), { headers, body });
}

async function keyWith(scopes: readonly Scope[]): Promise<string> {
  const made = await world.controlPlane.apiKeys.create(systemCaller(other.teamId), { name: "some", scopes, expiresInSec: 3600 });
  return made.key;
}

/** As what they need: endpoints for people are asked by a session. */
const foreign = ({ access }: Endpoint, of: Planted) => (access === "session" ? bySession(of.session) : byKey(of.key));

// Before all others: what they ask for, in vain, is in the log of who asked
describe.each(only((_, id) => endpointExamples[id].elsewhere === "own" || endpointExamples[id].elsewhere === "self"))(
  "%s as another team",
  (id, endpoint) => {
    test("tells nothing of what the first one has", async () => {
      if (endpoint.method !== "GET") return;
      const answer = await askEndpoint(world, id, pathOfExample(id, first), { headers: foreign(endpoint, other) });
      for (const mark of first.marks) expect(answer.body).not.toContain(mark);
    });
  },
);

test("lists do hold what the first one has, when it asks itself", async () => {
  const seen = new Set<string>();
  for (const [id, endpoint] of only(({ method }, each) => method === "GET" && endpointExamples[each].elsewhere === "own")) {
    const answer = await askEndpoint(world, id, pathOfExample(id, first), { headers: foreign(endpoint, first) });
    for (const mark of first.marks) if (answer.body.includes(mark)) seen.add(mark);
  }
  const { ids } = first;
  for (const mark of [ids.id, ids.build, ids.name, ids.key, ids.channel, first.snapshot]) expect([...seen]).toContain(mark);
});

describe.each(only((endpoint) => endpoint.access !== "open"))("%s", (id, endpoint) => {
  test("refuses who has no key, and keys that are wrong, revoked, expired or in the URL", async () => {
    const path = pathOfExample(id, first);
    for (const headers of [
      byKey(""),
      byKey(`roost_${"0".repeat(40)}`),
      byKey(revoked),
      byKey(expired),
      { "x-api-key": "", authorization: "Bearer nonsense" },
      { "x-api-key": "", authorization: `Bearer ${revoked}` },
      bySession(`session_${"0".repeat(64)}`),
    ]) {
      const answer = await askEndpoint(world, id, path, { headers, body: bodyOfExample(id, first) });
      expect(codeOf(answer), JSON.stringify(headers)).toBe("api_key_invalid");
    }
    for (const name of ["api_key", "apiKey", "key", "token", "access_token"]) {
      const inUrl = `${path}${path.includes("?") ? "&" : "?"}${name}=${world.key}`;
      const answer = await askEndpoint(world, id, inUrl, { headers: byKey(""), body: bodyOfExample(id, first) });
      expect(codeOf(answer), name).toBe("api_key_invalid");
    }
  });

  test("decides before it reads what was sent", async () => {
    if (endpoint.body === undefined) return;
    const headers = { ...byKey(""), "content-type": "application/json" };
    expect(codeOf(await ask(id, headers, "{ this is not JSON"))).toBe("api_key_invalid");
  });
});

describe.each(only(({ access }) => isScope(access)))("%s", (id, { access, body }) => {
  const needed = access as Scope;

  test(`refuses who has every scope but ${needed}`, async () => {
    const { apiKeys } = world.controlPlane;
    const scopes = scopeNames.filter((scope) => scope !== needed);
    const { key } = await apiKeys.create(systemCaller(first.teamId), { name: "all but one", scopes, expiresInSec: 3600 });
    const answer = await ask(id, byKey(key));
    // without `admin` a key is no platform admin's, whatever else it has
    expect(codeOf(answer)).toBe(needed === "admin" ? "admin_only" : "scope_missing");
    expect(answer.body).toContain(needed);
    if (body !== undefined) {
      const headers = { ...byKey(key), "content-type": "application/json" };
      expect(codeOf(await ask(id, headers, "{ this is not JSON"))).toBe(codeOf(answer));
    }
  });

  test("lets those in whose role has it, and no others", async () => {
    for (const [role, headers] of [
      ["member", bySession(member)],
      ["owner", bySession(other.session)],
      ["owner", byKey(other.key)],
    ] as const) {
      const answer = await ask(id, headers);
      const code = answer.status < 400 ? "none" : codeOf(answer);
      if (scopesOfRole[role].has(needed)) expect(refusals).not.toContain(code);
      else expect(code).toBe(platformScopes.has(needed) ? "admin_only" : "scope_missing");
    }
  });

  test("asks for no other scope", async () => {
    const answer = await ask(id, byKey(await keyWith([needed])));
    if (answer.status >= 400) expect(refusals).not.toContain(codeOf(answer));
  });
});

describe.each(only(({ access }) => access === "session"))("%s, for people", (id) => {
  test("refuses API keys, whatever they may", async () => {
    expect(codeOf(await ask(id, byKey(world.key)))).toBe("session_required");
  });
});

describe.each(only(({ access }) => access === "caller"))("%s, for every caller", (id) => {
  test("lets the least of keys in", async () => {
    const answer = await ask(id, byKey(await keyWith(["usage:read"])));
    expect(answer.status, answer.body).toBeLessThan(300);
  });
});

describe.each(only((_, id) => endpointExamples[id].elsewhere.endsWith("_not_found")))("%s of another team", (id, endpoint) => {
  const code = endpointExamples[id].elsewhere;

  test(`is ${code}, as if it did not exist`, async () => {
    const body = bodyOfExample(id, first);
    const answer = await askEndpoint(world, id, pathOfExample(id, first), { headers: foreign(endpoint, other), body });
    expect(codeOf(answer), answer.body).toBe(code);
    expect(answer.status).toBe(404);
  });

  test("is not found either where it stands beside what is one's own", async () => {
    const parameters = parameterNames(endpoint.path).filter((parameter) => first.ids[parameter] !== other.ids[parameter]);
    if (parameters.length < 2) return;
    for (const parameter of parameters) {
      const path = pathOfExample(id, other, { [parameter]: first.ids[parameter] });
      const answer = await askEndpoint(world, id, path, { headers: foreign(endpoint, other), body: bodyOfExample(id, other) });
      expect(answer.status, `${parameter}: ${answer.body}`).toBe(404);
    }
  });
});

/** Parameters that name what is a team's, or a user's: whose it is must be looked at. */
const owned: ReadonlySet<PathParameter> = new Set([
  "id",
  "name",
  "build",
  "operation",
  "key",
  "team",
  "user",
  "invitation",
  "session",
  "channel",
  "delivery",
] as const);

test.each(all)("%s says the truth of itself in its example", (id, { access, path }) => {
  const { elsewhere } = endpointExamples[id];
  expect(elsewhere === "open").toBe(access === "open");
  expect(elsewhere === "platform").toBe(isScope(access) && platformScopes.has(access));
  if (elsewhere === "self") expect(["session", "caller"]).toContain(access);
  if (elsewhere !== "platform" && parameterNames(path).some((parameter) => owned.has(parameter))) expect(elsewhere).toMatch(/_not_found$/);
});

/** Their method is POST because of their bodies, which may name what a URL should not */
const reading: ReadonlySet<EndpointId> = new Set(["listFiles", "statFile"] as const);

test.each(only(({ access }) => isScope(access)))(
  "%s: a scope to read is for what reads, and for nothing else",
  (id, { method, access, webSocket }) => {
    const reads = (method === "GET" && webSocket?.client === undefined) || reading.has(id);
    if (!reads) expect(access).not.toMatch(/:read$/);
    else if (access !== "keys:write" && access !== "admin") expect(access).toMatch(/:read$/);
  },
);

test.each(only(({ access }) => access === "caller"))("%s changes nothing: what does needs a scope or a session", (_id, { method }) => {
  expect(method).toBe("GET");
});

test("HEAD is asked the same as GET", async () => {
  const path = pathOfExample("getSandbox", first);
  expect((await world.request("HEAD", path, undefined, byKey(""))).status).toBe(401);
  expect((await world.request("HEAD", path, undefined, byKey(other.key))).status).toBe(404);
  expect((await world.request("HEAD", path, undefined, byKey(await keyWith(["events:read"])))).status).toBe(403);
  expect((await world.request("HEAD", path, undefined, byKey(first.key))).status).toBe(200);
});

test("the platform's own numbers are for its admins", async () => {
  expect((await world.request("GET", "/metrics")).status).toBe(200);
  const answer = await world.request("GET", "/metrics", undefined, byKey(first.key));
  expect(codeOf({ status: answer.status, body: await answer.text() })).toBe("admin_only");
  expect((await world.request("GET", "/metrics", undefined, byKey(""))).status).toBe(401);
});

test("a terminal ends when the key that opened it is revoked", async () => {
  const { apiKeys } = world.controlPlane;
  const caller = systemCaller(first.teamId);
  const { key, row } = await apiKeys.create(caller, { name: "terminal", scopes: ["sandboxes:write"], expiresInSec: null });
  const socket = await world.socket(`/v1/sandboxes/${first.ids.id}/exec/stream`, { headers: byKey(key) }).open();
  socket.send({ type: "start", cmd: "sleep", args: ["60"] });
  await socket.until("start");
  await apiKeys.revoke(caller, row.id);
  expect(await socket.until("error")).toMatchObject({ code: "api_key_invalid" });
  expect(await socket.ended).toEqual({ code: 1008 });
  await expect.poll(() => world.guest.runningPids).toEqual([]);
});
