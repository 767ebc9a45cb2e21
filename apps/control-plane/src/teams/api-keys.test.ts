import { adminOnlyScopes, apiKeysPerTeamMax, defaultTeamId, platformScopes, scopeNames, scopesOfRole, type Scope } from "@roost/contract";
import { minute, second, silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, expect, test, vi } from "vitest";

import type { Caller } from "../accounts/caller.ts";
import { Audit, type AuditEntry } from "../audit/audit.ts";
import type { Database } from "../db/database.ts";
import { createTestTeam, keyCaller, userCaller } from "../testing/callers.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { apiKeyCacheMs } from "./api-key-cache.ts";
import { ApiKeys, type MadeApiKey, type NewApiKey } from "./api-keys.ts";

let database: Database;
let clock = Date.parse("2026-01-01");
let keys: ApiKeys;
const audit = new Audit();
const noted: (AuditEntry & { readonly caller: Caller })[] = [];
const open = () => new ApiKeys({ db: database.db, audit, log: silentLogger, now: () => clock });
let admin: Caller;
const make = async (more: Partial<NewApiKey> = {}, by?: Caller): Promise<MadeApiKey> =>
  keys.create(by ?? admin, { name: "some", scopes: null, expiresInSec: null, ...more });
const refused = { code: "api_key_invalid" };

beforeAll(async () => {
  database = await openTestDatabase();
  admin = await userCaller(database.db, "admin");
  vi.spyOn(audit, "record").mockImplementation(async (_db, caller, entry) => void noted.push({ ...entry, caller }));
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("api_key").execute();
  noted.length = 0;
  keys = open();
});

test("a key is known by both prefixes and by nothing else", async () => {
  const { row, key } = await make({ name: "laptop" });
  const { id } = row;
  expect(await keys.check(key)).toMatchObject({ id, name: "laptop", teamId: defaultTeamId, isAdmin: false });
  expect(await keys.check(key.replace("roost_", "e2b_"))).toMatchObject({ id });
  const digits = key.slice("roost_".length);
  for (const wrong of [
    "",
    digits,
    `wrn_${digits}`,
    `${key}0`,
    key.slice(0, -1),
    key.toUpperCase(),
    `roost_${"0".repeat(40)}`,
    "' OR 1=1",
  ]) {
    await expect(keys.check(wrong)).rejects.toMatchObject(refused);
  }
});

test("the plain key is nowhere in the database", async () => {
  const { key } = await make();
  const rows = await database.db.selectFrom("api_key").selectAll().execute();
  const dump = JSON.stringify(rows) + rows.map((row) => Buffer.from(row.hash).toString("hex")).join();
  expect(dump).not.toContain(key.slice("roost_".length));
});

test("scopes are those it was made with, of a member where none were named, all for the platform's own", async () => {
  const some = await make({ scopes: ["sandboxes:read", "events:read", "sandboxes:read"] });
  expect([...(await keys.check(some.key)).scopes].sort()).toEqual(["events:read", "sandboxes:read"]);
  const usual = await make();
  expect((await keys.check(usual.key)).scopes).toEqual(scopesOfRole.member);
  const platform = await keys.createForPlatform("this machine");
  expect(await keys.check(platform.key)).toMatchObject({ isAdmin: true, scopes: new Set(scopeNames) });
});

test("nobody makes a key that may more than they may themselves", async () => {
  const reader = keyCaller(["sandboxes:read", "keys:write"]);
  await expect(make({ scopes: ["sandboxes:read", "sandboxes:write"] }, reader)).rejects.toMatchObject({
    code: "scope_missing",
    message: expect.stringMatching(/sandboxes:write.*sandboxes:read, keys:write/),
  });
  await expect(make({}, reader)).rejects.toMatchObject({ code: "scope_missing" });
  const owner = await userCaller(database.db, "owner");
  for (const scope of ["hosts:read", "hosts:write", "admin"] as const) {
    await expect(make({ scopes: [scope] }, owner)).rejects.toMatchObject({ code: "admin_only" });
  }
  const { key } = await make({ scopes: ["hosts:read"] }, await userCaller(database.db, "owner", { isAdmin: true }));
  expect(await keys.check(key)).toMatchObject({ scopes: new Set(["hosts:read"]), isAdmin: false });
  expect((await keys.list(defaultTeamId)).length).toBe(1);
});

test("scopes of the platform that a row has without the right to them are none", async () => {
  const { row, key } = await make({ scopes: ["sandboxes:read"] });
  const scopes = JSON.stringify(["sandboxes:read", "admin", "hosts:write", "no:scope"]);
  await database.db.updateTable("api_key").set({ scopes }).where("id", "=", row.id).execute();
  keys.forget();
  expect(await keys.check(key)).toMatchObject({ scopes: new Set(["sandboxes:read"]), isAdmin: false });
});

test("a key stops at the instant it expires, also one that was just used", async () => {
  const { key } = await make({ expiresInSec: 60 });
  clock += minute - 1;
  await keys.check(key);
  clock += 1;
  await expect(keys.check(key)).rejects.toMatchObject({ ...refused, message: expect.stringContaining("expired at 2026") });
  await expect(open().check(key)).rejects.toMatchObject(refused);
});

test("a key makes none that outlives it", async () => {
  const parent = await make({ scopes: ["keys:write", "sandboxes:read"], expiresInSec: 3600 });
  const by = keyCaller(["keys:write", "sandboxes:read"], { actor: { kind: "api_key", id: parent.row.id, name: "parent" } });
  const wanted = { scopes: ["sandboxes:read"] } as const;
  await expect(make(wanted, by)).rejects.toMatchObject({ code: "request_invalid", message: expect.stringContaining("expires_in_sec") });
  await expect(make({ ...wanted, expiresInSec: 3601 }, by)).rejects.toMatchObject({ code: "request_invalid" });
  expect((await make({ ...wanted, expiresInSec: 3600 }, by)).row.created_by).toBe(parent.row.id);
  await keys.revoke(admin, parent.row.id);
  await expect(make({ ...wanted, expiresInSec: 60 }, by)).rejects.toMatchObject(refused);
});

test("a revoked key stops at once here, and within a second in another process", async () => {
  const { row, key } = await make();
  const elsewhere = open();
  await keys.check(key);
  await elsewhere.check(key);
  await keys.revoke(admin, row.id);
  await expect(keys.revoke(admin, row.id)).rejects.toMatchObject({ code: "api_key_not_found" });
  await expect(keys.check(key)).rejects.toMatchObject({ ...refused, message: expect.stringContaining("revoked") });
  await elsewhere.check(key); // still believed
  expect(apiKeyCacheMs).toBeLessThanOrEqual(1 * second);
  clock += apiKeyCacheMs;
  await expect(elsewhere.check(key)).rejects.toMatchObject(refused);
  expect(await keys.list(defaultTeamId)).toEqual([]);
});

test("a look-up that was on its way when a key was revoked is not believed afterwards", async () => {
  const { row, key } = await make();
  keys.forget();
  const asked = keys.check(key); // reads the row before the revocation, answers whenever
  await keys.revoke(admin, row.id);
  await asked.catch(() => undefined);
  await expect(keys.check(key)).rejects.toMatchObject(refused);
});

test("another team neither sees nor revokes it; one that is gone has none", async () => {
  const other = await createTestTeam(database.db);
  const theirs = await make({}, await userCaller(database.db, "admin", { teamId: other }));
  expect(await keys.check(theirs.key)).toMatchObject({ teamId: other });
  expect(await keys.list(defaultTeamId)).toEqual([]);
  await expect(keys.revoke(admin, theirs.row.id)).rejects.toMatchObject({ code: "api_key_not_found" });
  await keys.check(theirs.key);
  await database.db
    .updateTable("team")
    .set({ time_deleted: new Date(clock) })
    .where("id", "=", other)
    .execute();
  keys.forget();
  await expect(keys.check(theirs.key)).rejects.toMatchObject(refused);
});

const revokeMadeBy = async (...[userId, teamId, lost]: [string, string | undefined, ReadonlySet<Scope>?]) =>
  (await keys.revokeMadeBy(database.db, userId, teamId, lost)).map((entry) => entry.resource_id);

test("what a user made goes, with what that made in its turn, in one team or in all", async () => {
  const other = await createTestTeam(database.db);
  const leaver = await userCaller(database.db, "admin");
  const userId = leaver.actor.id;
  await database.db.insertInto("membership").values({ team_id: other, user_id: userId, role: "admin", time_created: new Date() }).execute();
  const own = await make({ scopes: ["keys:write", "sandboxes:read"] }, leaver);
  const byKey = keyCaller(["keys:write", "sandboxes:read"], { actor: { kind: "api_key", id: own.row.id, name: "own" } });
  const child = await make({ scopes: ["sandboxes:read"] }, byKey);
  const elsewhere = await make({}, { ...leaver, teamId: other });
  const stays = await make();
  expect((await revokeMadeBy(userId, defaultTeamId)).sort()).toEqual([own.row.id, child.row.id].sort());
  for (const { key } of [own, child]) await expect(keys.check(key)).rejects.toMatchObject(refused);
  await keys.check(elsewhere.key);
  expect(await revokeMadeBy(userId, undefined)).toEqual([elsewhere.row.id]);
  await expect(keys.check(elsewhere.key)).rejects.toMatchObject(refused);
  await keys.check(stays.key);
});

test("who becomes less than they were loses the keys that may what they may not", async () => {
  const user = await userCaller(database.db, "admin", { isAdmin: true });
  const member = await make({ scopes: ["sandboxes:read"] }, user);
  const keyMaker = await make({ scopes: ["sandboxes:read", "keys:write"] }, user);
  const host = await make({ scopes: ["hosts:read"] }, user);
  expect(await revokeMadeBy(user.actor.id, undefined, platformScopes)).toEqual([host.row.id]);
  expect(await revokeMadeBy(user.actor.id, defaultTeamId, adminOnlyScopes)).toEqual([keyMaker.row.id]);
  await keys.check(member.key);
  await expect(keys.check(host.key)).rejects.toMatchObject(refused);
});

test("what counts is the role as it is, not as it was when the request came", async () => {
  const demoted = await userCaller(database.db, "admin", { isAdmin: true });
  await database.db.updateTable("membership").set({ role: "member" }).where("user_id", "=", demoted.actor.id).execute();
  await expect(make({}, demoted)).rejects.toMatchObject({ code: "scope_missing" });
  await database.db.updateTable("membership").set({ role: "admin" }).where("user_id", "=", demoted.actor.id).execute();
  await database.db.updateTable("user_account").set({ is_admin: false }).where("id", "=", demoted.actor.id).execute();
  await expect(make({ scopes: ["admin"] }, demoted)).rejects.toMatchObject({ code: "admin_only" });
  await make({}, demoted);
});

test("who is not in the team any more, or not active, makes none", async () => {
  const gone = await userCaller(database.db, "admin");
  await database.db.deleteFrom("membership").where("user_id", "=", gone.actor.id).execute();
  await expect(make({}, gone)).rejects.toMatchObject(refused);
  const inactive = await userCaller(database.db, "admin");
  await database.db.updateTable("user_account").set({ time_deactivated: new Date() }).where("id", "=", inactive.actor.id).execute();
  await expect(make({}, inactive)).rejects.toMatchObject(refused);
  expect(await keys.list(defaultTeamId)).toEqual([]);
});

test("a key made elsewhere works, although it was asked for before", async () => {
  const other = open();
  const { key } = await other.create(admin, { name: "new", scopes: null, expiresInSec: null });
  expect(await keys.check(key)).toMatchObject({ name: "new" });
});

test("last use is written once a minute, not once a request, whoever it was that served it", async () => {
  const { row, key } = await make();
  const lastUsed = async () => (await keys.list(defaultTeamId)).find(({ id }) => id === row.id)?.time_last_used?.getTime();
  const first = clock;
  await keys.check(key);
  await expect.poll(lastUsed).toBe(first);
  clock += 30 * second;
  await keys.check(key);
  await open().check(key);
  await database.ping(); // queries are answered in order: had there been a write, it would be done
  expect(await lastUsed()).toBe(first);
  clock += 31 * second;
  await keys.check(key);
  await expect.poll(lastUsed).toBe(clock);
});

test("many who ask at once are one query", async () => {
  const { key } = await make();
  const queries = vi.spyOn(database.db, "selectFrom");
  try {
    await Promise.all(Array.from({ length: 200 }, async () => keys.check(key)));
    expect(queries).toHaveBeenCalledTimes(1);
  } finally {
    queries.mockRestore();
  }
});

test("a database that does not answer is no verdict, and not remembered as one", async () => {
  const { key } = await make();
  const broken = vi.spyOn(database.db, "selectFrom").mockImplementationOnce(() => {
    throw new Error("no connection");
  });
  await expect(keys.check(key)).rejects.toThrow("no connection");
  broken.mockRestore();
  await keys.check(key);
});

test("making, revoking and refusing are noted; refusals once an hour", async () => {
  const { row, key } = await make({ name: "noted", scopes: ["sandboxes:read"] });
  await keys.revoke(admin, row.id);
  for (let times = 0; times < 3; times += 1) await expect(keys.check(key)).rejects.toMatchObject(refused);
  const resource = { kind: "api_key", id: row.id };
  await expect.poll(() => noted.length).toBe(3);
  expect(noted).toMatchObject([
    { action: "key.create", resource, caller: admin, detail: { name: "noted", scopes: "sandboxes:read" } },
    { action: "key.revoke", resource, caller: admin },
    { action: "key.refused", resource, status: "failure", caller: { teamId: defaultTeamId, actor: { kind: "system" } } },
  ]);
  expect(JSON.stringify(noted)).not.toContain(key.slice("roost_".length));
});

test("a team has at most so many", async () => {
  const row = (await make()).row;
  await sql`INSERT INTO api_key (id, team_id, name, hash, prefix, time_created)
    SELECT 'k' || n, ${defaultTeamId}, 'n', sha256(n::text::bytea), '000000', now() FROM generate_series(2, ${apiKeysPerTeamMax}::int) n`.execute(
    database.db,
  );
  await expect(make()).rejects.toMatchObject({ code: "request_invalid", message: expect.stringContaining(String(apiKeysPerTeamMax)) });
  await keys.revoke(admin, row.id);
  await make();
});
