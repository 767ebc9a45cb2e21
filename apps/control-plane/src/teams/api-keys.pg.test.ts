import { adminOnlyScopes, defaultTeamId, type PlatformError } from "@roost/contract";
import { must, silentLogger } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import type { Caller } from "../accounts/caller.ts";
import { Audit } from "../audit/audit.ts";
import { openDatabase, type Database } from "../db/database.ts";
import { deleteMembership, setRole } from "../db/members.ts";
import { lockTeam } from "../db/teams.ts";
import { keyCaller, userCaller } from "../testing/callers.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";
import { apiKeyCacheMs } from "./api-key-cache.ts";
import { ApiKeys } from "./api-keys.ts";

/** Two control planes on one PostgreSQL. */
const reason = whyNoPostgres();
if (reason !== undefined) console.warn(`skipped: ${reason}`);

let postgres: TestPostgres;
const databases: Database[] = [];
let clock = Date.parse("2026-01-01");
const replicas: ApiKeys[] = [];
let admin: Caller;
const usual = { name: "some", scopes: null, expiresInSec: null };
const refused = { code: "api_key_invalid" };

beforeAll(async () => {
  if (reason !== undefined) return;
  postgres = postgresOfRun();
  const url = await postgres.createDatabase();
  for (let count = 0; count < 2; count += 1) {
    const database = await openDatabase({ kind: "server", url }, silentLogger);
    databases.push(database);
    admin ??= await userCaller(database.db, "admin");
    replicas.push(new ApiKeys({ db: database.db, audit: new Audit(), log: silentLogger, now: () => clock }));
  }
}, 60_000);
afterAll(async () => {
  for (const database of databases) await database.close();
  await postgres?.[Symbol.asyncDispose]();
});

function both(): [ApiKeys, ApiKeys] {
  const [here, there] = replicas;
  if (here === undefined || there === undefined) throw new Error("there are two");
  return [here, there];
}

test.skipIf(reason !== undefined)("a key that one revokes stops in the other when what it remembers is a second old", async () => {
  const [here, there] = both();
  const { row, key } = await here.create(admin, usual);
  expect(await there.check(key)).toMatchObject({ id: row.id });
  await here.revoke(admin, row.id);
  await expect(here.check(key)).rejects.toMatchObject(refused);
  clock += apiKeyCacheMs;
  await expect(there.check(key)).rejects.toMatchObject(refused);
});

test.skipIf(reason !== undefined)("of many who revoke it at once one does", async () => {
  const [here, there] = both();
  const { row } = await here.create(admin, usual);
  const tries = await Promise.allSettled(Array.from({ length: 8 }, async (_, index) => (index % 2 ? here : there).revoke(admin, row.id)));
  expect(tries.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
});

test.skipIf(reason !== undefined)("a key whose maker is revoked at the same time is not left behind", async () => {
  const [here, there] = both();
  for (let round = 0; round < 20; round += 1) {
    const { db } = must(databases[0], "the first");
    const user = await userCaller(db, "admin");
    const scopes = ["keys:write", "sandboxes:read"] as const;
    const parent = await here.create(user, { ...usual, scopes });
    const by = keyCaller(scopes, { actor: { kind: "api_key", id: parent.row.id, name: "parent" } });
    const [made] = await Promise.allSettled([
      there.create(by, { ...usual, scopes: ["sandboxes:read"] }),
      here.revokeMadeBy(db, user.actor.id, undefined),
    ]);
    here.forget();
    there.forget();
    if (made.status === "fulfilled") await expect(here.check(made.value.key)).rejects.toMatchObject(refused);
    else expect(made.reason).toMatchObject(refused);
    expect((await here.list(defaultTeamId)).filter((row) => row.created_by === parent.row.id)).toEqual([]);
  }
});

test.skipIf(reason !== undefined)(
  "a key whose maker is removed from the team, or demoted, at the same time is not left behind, and nobody waits in a circle",
  async () => {
    const [here, there] = both();
    const { db } = must(databases[0], "the first");
    for (let round = 0; round < 20; round += 1) {
      const user = await userCaller(db, "admin");
      const isRemoved = round % 2 === 0;
      const [made, taken] = await Promise.allSettled([
        there.create(user, { ...usual, scopes: ["keys:write"] }),
        db.transaction().execute(async (transaction) => {
          await lockTeam(transaction, defaultTeamId); // as whoever changes a team
          if (isRemoved) await deleteMembership(transaction, defaultTeamId, user.actor.id);
          else await setRole(transaction, defaultTeamId, user.actor.id, "member");
          await here.revokeMadeBy(transaction, user.actor.id, defaultTeamId, isRemoved ? undefined : adminOnlyScopes);
        }),
      ]);
      here.forget();
      expect(taken.status).toBe("fulfilled");
      if (made.status === "fulfilled") await expect(here.check(made.value.key)).rejects.toMatchObject(refused);
      else expect(["api_key_invalid", "scope_missing"]).toContain((made.reason as PlatformError).code);
      expect((await here.list(defaultTeamId)).filter((row) => row.created_by === user.actor.id)).toEqual([]);
    }
  },
);
