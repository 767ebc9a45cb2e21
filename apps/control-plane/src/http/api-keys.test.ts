import { apiKeyListSchema, createdApiKeySchema, type CreateApiKeyInput, type CreatedApiKey } from "@roost/contract";
import { afterAll, beforeAll, expect, test } from "vitest";

import { createTestTeam, userCaller } from "../testing/callers.ts";
import { signIn } from "../testing/planted.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const byKey = (key: string) => ({ "x-api-key": key });

async function ask(method: string, path: string, status: number, body?: object, headers: Record<string, string> = {}): Promise<unknown> {
  const answer = await world.request(method, path, body, headers);
  const text = await answer.text();
  expect(answer.status, text).toBe(status);
  return text === "" ? undefined : JSON.parse(text);
}

const make = async (body: CreateApiKeyInput, headers = {}): Promise<CreatedApiKey> =>
  createdApiKeySchema.parse(await ask("POST", "/v1/keys", 201, body, headers));
const code = (value: string) => ({ error: { code: value } });

test("a key from its making to its end; its text is in one answer only", async () => {
  const made = await make({ name: "ci", scopes: ["sandboxes:read"] });
  expect(made).toMatchObject({ name: "ci", scopes: ["sandboxes:read"], is_admin: false, expires_at: null, last_used_at: null });
  expect(made.key.startsWith(`roost_${made.prefix}`)).toBe(true);
  await ask("GET", "/v1/sandboxes", 200, undefined, byKey(made.key));
  expect(await ask("POST", "/v1/sandboxes", 403, {}, byKey(made.key))).toMatchObject(code("scope_missing"));
  await ask("GET", "/v2/sandboxes", 200, undefined, byKey(made.key.replace("roost_", "e2b_")));
  const text = JSON.stringify(await ask("GET", "/v1/keys", 200));
  expect(text).not.toContain(made.key.slice("roost_".length));
  const listed = apiKeyListSchema.parse(JSON.parse(text)).keys.find(({ id }) => id === made.id);
  expect(listed).toMatchObject({ name: "ci", last_used_at: expect.any(String) });
  await ask("DELETE", `/v1/keys/${made.id}`, 204);
  expect(await ask("GET", "/v1/sandboxes", 401, undefined, byKey(made.key))).toMatchObject(code("api_key_invalid"));
  expect(await ask("DELETE", `/v1/keys/${made.id}`, 404)).toMatchObject(code("api_key_not_found"));
  const keys = (await ask("GET", "/v1/keys", 200)) as { keys: { id: string }[] };
  expect(keys.keys.map(({ id }) => id)).not.toContain(made.id);
});

test("who makes a key of a session is an admin or owner, and what it may follows from the role", async () => {
  const { db } = world.database;
  const teamId = await createTestTeam(db);
  for (const role of ["owner", "admin", "member"] as const) {
    const user = await userCaller(db, role, { teamId });
    const headers = { "x-api-key": "", authorization: `Bearer ${(await signIn(db, user.actor.id, teamId)).token}` };
    if (role === "member") expect(await ask("POST", "/v1/keys", 403, { name: "x" }, headers)).toMatchObject(code("scope_missing"));
    else {
      const made = await make({ name: role }, headers);
      expect(made).toMatchObject({ created_by: user.actor.id, is_admin: false });
      expect(made.scopes).not.toContain("keys:write");
      expect(await ask("POST", "/v1/keys", 403, { name: "x", scopes: ["admin"] }, headers)).toMatchObject(code("admin_only"));
      expect(await ask("GET", "/v1/keys", 403, undefined, byKey(made.key))).toMatchObject(code("scope_missing"));
    }
  }
});

test("a key that makes keys gives no more than it has, and no longer", async () => {
  const maker = await make({ name: "maker", scopes: ["keys:write", "sandboxes:read"], expires_in_sec: 3600 });
  const by = byKey(maker.key);
  for (const scopes of [undefined, ["sandboxes:write"], ["sandboxes:read", "audit:read"]]) {
    const wanted = { name: "x", expires_in_sec: 60, ...(scopes === undefined ? {} : { scopes }) };
    expect(await ask("POST", "/v1/keys", 403, wanted, by)).toMatchObject(code("scope_missing"));
  }
  expect(await ask("POST", "/v1/keys", 400, { name: "x", scopes: ["sandboxes:read"] }, by)).toMatchObject(code("request_invalid"));
  const child = await make({ name: "child", scopes: ["sandboxes:read"], expires_in_sec: 60 }, by);
  expect(child.created_by).toBe(maker.id);
});

test("what is wrong is named", async () => {
  for (const [body, field] of [
    [{}, "name"],
    [{ name: " " }, "name"],
    [{ name: "x".repeat(65) }, "name"],
    [{ name: "x", scopes: [] }, "scopes"],
    [{ name: "x", scopes: ["sandboxes:fly"] }, "scopes.0"],
    [{ name: "x", expires_in_sec: 59 }, "expires_in_sec"],
    [{ name: "x", expires_in_sec: 1e12 }, "expires_in_sec"],
    [{ name: "x", is_admin: true }, "is_admin"],
  ] as const) {
    expect(JSON.stringify(await ask("POST", "/v1/keys", 400, body))).toContain(field);
  }
});
