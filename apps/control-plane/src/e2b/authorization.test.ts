import { isScope, scopeNames } from "@roost/contract";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { askE2b, type E2bAnswer } from "../testing/e2b-calls.ts";
import { e2bExamples, type E2bExample } from "../testing/e2b-examples.ts";
import { plant, type Planted } from "../testing/planted.ts";
import { World } from "../testing/world.ts";
import { e2bRoutes, type E2bRoute, type E2bRouteId } from "./route-table.ts";

/** Who may call what of E2B's API, asked of every route of its table; as `http/authorization.test.ts`. */

let world: World;
let first: Planted;
let other: Planted;
let revoked: string;
let expired: string;
beforeAll(async () => {
  world = await World.start({ options: { buildsAtOnce: 0 } });
  first = await plant(world, "first");
  other = await plant(world, "other");
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

const all = Object.entries(e2bRoutes) as [E2bRouteId, E2bRoute][];
const examples: Partial<Record<E2bRouteId, E2bExample>> = e2bExamples;
const byKey = (key: string) => ({ "x-api-key": key });
const asE2b = (key: string) => key.replace(/^roost_/, "e2b_");

function pathOf({ path }: E2bRoute, of: Planted, id: E2bRouteId): string {
  const values: Readonly<Record<string, string>> = {
    sandboxID: of.ids.id,
    templateID: of.ids.name,
    buildID: of.ids.build,
    alias: of.ids.name,
    hash: of.ids.hash,
    teamID: of.teamId,
    volumeID: "some-volume",
    webhookID: "some-webhook",
    secretID: "some-secret",
  };
  const filled = path.replaceAll(/\{(\w+)\}/g, (_match, name: string) => {
    const value = values[name];
    if (value === undefined) throw new Error(`say here what {${name}} of ${path} may be`);
    return encodeURIComponent(value);
  });
  return filled + (examples[id]?.query?.(of) ?? "");
}

/** Asks with what `of` has in the path and in the body. */
async function ask(id: E2bRouteId, of: Planted, headers: Record<string, string>, body?: string): Promise<E2bAnswer> {
  const route = e2bRoutes[id];
  if (id === "putBuildFiles") return askE2b(world, route.method, pathOf(route, of, id), Buffer.from("data"), headers);
  const sent = body ?? (route.method === "GET" ? undefined : (examples[id]?.body?.(of) ?? {}));
  return askE2b(world, route.method, pathOf(route, of, id), sent, headers);
}

const refusal = (status: number, code: string) => ({ status, body: { code: status, error_code: code, message: expect.any(String) } });

describe.each(all)("%s", (id, route) => {
  test("refuses who has no key, and keys that are wrong, revoked or expired, in E2B's words", async () => {
    for (const key of ["", `e2b_${"0".repeat(40)}`, asE2b(revoked), asE2b(expired)]) {
      expect(await ask(id, first, byKey(key)), key).toMatchObject(refusal(401, "api_key_invalid"));
    }
    const inUrl = `${pathOf(route, first, id)}${pathOf(route, first, id).includes("?") ? "&" : "?"}api_key=${world.key}`;
    const sent = route.method === "GET" ? undefined : Buffer.from("{}");
    expect(await askE2b(world, route.method, inUrl, sent, byKey(""))).toMatchObject({ status: 401 });
  });

  test("refuses who has every scope but the one it needs, before it reads what was sent", async () => {
    const { access } = route;
    if (!isScope(access)) return expect([access, route.refused !== undefined || id === "listTeams"]).toEqual(["caller", true]);
    const scopes = scopeNames.filter((scope) => scope !== access);
    const made = await world.controlPlane.apiKeys.create(systemCaller(first.teamId), { name: "x", scopes, expiresInSec: 3600 });
    const answer = await ask(id, first, byKey(asE2b(made.key)));
    expect(answer).toMatchObject(refusal(403, "scope_missing"));
    expect(answer.body["message"]).toContain(access);
    const headers = { ...byKey(made.key), "content-type": "application/json" };
    if (route.method !== "GET") expect(await ask(id, first, headers, "{ no JSON")).toMatchObject(refusal(403, "scope_missing"));
  });
});

describe.each(all.filter(([id]) => examples[id]?.elsewhere === "not found"))("%s of another team", (id, route) => {
  test("is not found", async () => {
    const answer = await ask(id, first, byKey(other.key));
    expect(answer.status, JSON.stringify(answer.body)).toBe(404);
    expect(answer.body["error_code"]).toMatch(/_not_found$/);
  });

  test("is not found either by the id of what it is of", async () => {
    if (!route.path.includes("{templateID}")) return;
    const row = await world.database.db.selectFrom("build").select("template_id").where("id", "=", first.ids.build).executeTakeFirst();
    const byId = { ...first, ids: { ...first.ids, name: row?.template_id ?? "" } };
    expect((await ask(id, byId, byKey(other.key))).status).toBe(404);
    const mixed = { ...other, ids: { ...other.ids, build: first.ids.build } };
    if (route.path.includes("{buildID}")) expect((await ask(id, mixed, byKey(other.key))).status).toBe(404);
  });
});

describe.each(all.filter(([id, { method }]) => examples[id]?.elsewhere === "own" && method === "GET"))("%s as another team", (id) => {
  test("tells nothing of what the first one has", async () => {
    const answer = await ask(id, first, byKey(other.key));
    for (const mark of first.marks) expect(JSON.stringify(answer.body)).not.toContain(mark);
  });
});

test("lists hold what the first one has, when it asks itself", async () => {
  for (const id of ["listSandboxes", "listSandboxesV2"] as const)
    expect(JSON.stringify(await ask(id, first, byKey(first.key)))).toContain(first.ids.id);
  expect(JSON.stringify(await ask("listTemplates", first, byKey(first.key)))).toContain(first.ids.name);
  expect(JSON.stringify(await ask("listSnapshots", first, byKey(first.key)))).toContain(first.snapshot);
});

test.each(all)("%s has an example, or is refused", (id, route) => {
  expect(examples[id] === undefined).toBe(route.refused !== undefined);
  if (/\{(sandboxID|templateID|buildID|alias)\}/.test(route.path) && route.refused === undefined)
    expect(examples[id]?.elsewhere).toBe("not found");
});

test("what is refused says so to whoever has a key, and to nobody else", async () => {
  for (const [id] of all.filter(([, { refused }]) => refused !== undefined)) {
    expect(await ask(id, other, byKey(other.key))).toMatchObject(refusal(501, "feature_unsupported"));
  }
});
