import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { systemCaller, type Caller } from "../accounts/caller.ts";
import type { Database } from "../db/database.ts";
import { findAuditHead, walkAudit } from "../db/audit.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { AuditLog } from "./audit-log.ts";
import { AuditQueue } from "./audit-queue.ts";
import { Audit, type AuditEntry } from "./audit.ts";
import { noHash } from "./entry-hash.ts";
import { AuditUpkeep } from "./upkeep.ts";
import { verifyChain } from "./verify-chain.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await sql`DELETE FROM audit_entry`.execute(database.db);
  await sql`DELETE FROM audit_head`.execute(database.db);
});

const start = new Date("2026-03-01T00:00:00.000Z").getTime();
const team = "default";
const entry = (id: string, more: Partial<AuditEntry> = {}): AuditEntry => ({
  action: "sandbox.create",
  resource: { kind: "sandbox", id },
  detail: { b: "2", a: "ü\0" },
  ...more,
});
const callerOf = (teamId: string, more: Partial<Caller> = {}): Caller => ({ ...systemCaller(teamId, "req_1"), ...more });
const verify = (after = 0, afterHash?: string, entriesMax = 1_000) => verifyChain(database.db, team, { after, afterHash, entriesMax });

/** So many entries, a day apart. */
async function fill(count: number, chain = team): Promise<Audit> {
  let time = start;
  const audit = new Audit(() => new Date((time += 24 * 3_600_000)));
  for (let index = 1; index <= count; index += 1) await audit.record(database.db, callerOf(chain), entry(`i${index}`));
  return audit;
}

test("entries of a chain have numbers without gaps, and each the hash of the one before", async () => {
  await fill(5);
  const rows = await walkAudit(database.db, team, 0, 100);
  expect(rows.map((row) => row.number)).toEqual([1, 2, 3, 4, 5]);
  expect(rows.map((row) => row.previous_hash)).toEqual([noHash, ...rows.slice(0, -1).map((row) => row.hash)]);
  expect(new Set(rows.map((row) => row.hash)).size).toBe(5);
  expect(rows[0]?.detail).toEqual({ a: "ü\u{FFFD}", b: "2" });
  expect(await findAuditHead(database.db, team)).toMatchObject({ number: 5, hash: rows[4]?.hash });
  expect(await verify()).toMatchObject({ is_intact: true, is_complete: true, checked: 5, checked_to: 5, broken_at: null });
});

test("teams and the platform have chains of their own", async () => {
  await fill(2);
  const audit = await fill(1, "gother");
  await audit.record(database.db, callerOf(team), entry("u1", { action: "user.login", resource: { kind: "user", id: "u1" } }));
  await audit.record(database.db, callerOf(team), entry("x", { teamId: "gother" }));
  const counts = await sql<{ chain: string; count: number }>`
    SELECT chain, count(*)::int AS count FROM audit_entry GROUP BY chain ORDER BY chain`.execute(database.db);
  expect(counts.rows).toEqual([
    { chain: "default", count: 2 },
    { chain: "gother", count: 2 },
    { chain: "platform", count: 1 },
  ]);
});

test("an entry is there if and only if its act is", async () => {
  const audit = await fill(1);
  const caller = callerOf(team);
  const failing = database.db.transaction().execute(async (transaction) => {
    await audit.record(transaction, caller, entry("undone"));
    throw new Error("the act failed");
  });
  await expect(failing).rejects.toThrow("the act failed");
  expect((await walkAudit(database.db, team, 0, 10)).map((row) => row.resource_id)).toEqual(["i1"]);
  await audit.record(database.db, caller, entry("done"));
  expect(await verify()).toMatchObject({ is_intact: true, checked: 2 });
});

const columns: readonly [string, string][] = [
  ["actor_id", "'somebody else'"],
  ["action", "'sandbox.delete'"],
  ["resource_id", "NULL"],
  ["status", "'failure'"],
  ["scope", "'admin'"],
  ["time_created", "time_created + interval '1 millisecond'"],
  ["detail", `'{"a":"ü","b":"3"}'`],
  ["request_id", "'req_2'"],
  ["address", "'192.0.2.1'"],
  ["actor_name", "'Other'"],
];

test.each(columns)("a changed %s is found", async (column, value) => {
  await fill(5);
  await sql.raw(`UPDATE audit_entry SET ${column} = ${value} WHERE number = 3`).execute(database.db);
  expect(await verify()).toMatchObject({ is_intact: false, is_complete: false, broken_at: 3, problem: "it was changed", checked_to: 2 });
});

test("a removed entry, one that was put in, and an end that was cut off are found", async () => {
  await fill(5);
  await sql`DELETE FROM audit_entry WHERE number = 2`.execute(database.db);
  expect(await verify()).toMatchObject({ broken_at: 2, problem: "it is missing" });
  await sql`UPDATE audit_entry SET number = 2 WHERE number = 3`.execute(database.db);
  expect(await verify()).toMatchObject({ broken_at: 2, problem: "it does not follow from the entry before" });
  await sql`DELETE FROM audit_entry WHERE number > 1`.execute(database.db);
  expect(await verify()).toMatchObject({ is_intact: false, broken_at: 2 });
  expect((await verify()).problem).toContain("the end was cut off");
});

test("a log that was written anew as a whole is found by a hash that was known of it", async () => {
  await fill(4);
  const known = (await walkAudit(database.db, team, 2, 1))[0]?.hash;
  await sql`DELETE FROM audit_entry`.execute(database.db);
  await sql`DELETE FROM audit_head`.execute(database.db);
  const audit = new Audit();
  for (const id of ["a", "b", "c", "d"]) await audit.record(database.db, callerOf(team), entry(id));
  expect(await verify()).toMatchObject({ is_intact: true });
  expect(await verify(3, known)).toMatchObject({ is_intact: false, broken_at: 3 });
  await sql`DELETE FROM audit_entry WHERE number > 2`.execute(database.db);
  await sql`UPDATE audit_head SET number = 2, hash = (SELECT hash FROM audit_entry WHERE number = 2)`.execute(database.db);
  expect(await verify()).toMatchObject({ is_intact: true });
  expect(await verify(3, known)).toMatchObject({ is_intact: false, broken_at: 3, problem: "it is missing" });
});

test("a long chain is walked in parts, each from the hash that the one before ended with", async () => {
  await fill(7);
  const first = await verify(0, undefined, 3);
  expect(first).toMatchObject({ is_intact: true, is_complete: false, checked: 3, checked_to: 3 });
  const second = await verify(first.checked_to, first.checked_to_hash, 3);
  expect(second).toMatchObject({ is_intact: true, is_complete: false, checked_to: 6 });
  expect(await verify(second.checked_to, second.checked_to_hash, 3)).toMatchObject({ is_complete: true, checked: 1, checked_to: 7 });
});

test("retention removes what is old, says so in the chain, and what is left still verifies", async () => {
  const audit = await fill(10);
  const removed = (await walkAudit(database.db, team, 3, 1))[0];
  const upkeep = new AuditUpkeep({
    db: database.db,
    audit,
    retentionSec: 5 * 24 * 3600,
    log: silentLogger,
    now: () => new Date(start + 9.5 * 24 * 3_600_000),
  });
  await upkeep.round();
  const rows = await walkAudit(database.db, team, 0, 100);
  expect(rows.map((row) => row.number)).toEqual([5, 6, 7, 8, 9, 10, 11]);
  expect(rows.at(-1)).toMatchObject({ action: "audit.prune", detail: { count: "4", last_number: "4", last_hash: removed?.hash } });
  expect(await verify()).toMatchObject({ is_intact: true, is_complete: true, kept_from: 5, checked: 7 });
  await upkeep.round();
  expect(await walkAudit(database.db, team, 0, 100)).toHaveLength(7);
  // More than it says is missing
  await sql`DELETE FROM audit_entry WHERE number = 5`.execute(database.db);
  expect(await verify()).toMatchObject({ is_intact: false, broken_at: 5 });
});

test("members see what is of their team's scope, nobody another team's, only admins the platform's", async () => {
  const audit = await fill(2);
  await audit.record(database.db, callerOf(team), entry("secret", { scope: "admin" }));
  await fill(1, "gother");
  const log = new AuditLog(database.db);
  const query = { log: "team" as const, limit: 100 };
  const idsFor = async (caller: Caller) => (await log.list(caller, query)).entries.map(({ resource }) => resource.id);
  expect(await idsFor(callerOf(team, { role: "member", isAdmin: false }))).toEqual(["i2", "i1"]);
  expect(await idsFor(callerOf(team, { role: "owner", isAdmin: false }))).toEqual(["secret", "i2", "i1"]);
  expect(await idsFor(callerOf("gother", { role: "owner", isAdmin: false }))).toEqual(["i1"]);
  const owner = callerOf(team, { role: "owner", isAdmin: false });
  await expect(log.list(owner, { ...query, log: "platform" })).rejects.toMatchObject({ code: "admin_only" });
  await expect(log.verify(owner, { log: "platform", after: 0 })).rejects.toMatchObject({ code: "admin_only" });
});

test("pages are followed by their cursor, and filters hold", async () => {
  const audit = await fill(5);
  await audit.record(database.db, callerOf(team), entry("i9", { action: "sandbox.delete", status: "failure" }));
  const log = new AuditLog(database.db);
  const caller = callerOf(team);
  const seen: number[] = [];
  let cursor: string | undefined;
  do {
    const page = await log.list(caller, { log: "team", limit: 2, ...(cursor === undefined ? {} : { cursor }) });
    seen.push(...page.entries.map(({ number }) => number));
    cursor = page.next_cursor ?? undefined;
  } while (cursor !== undefined);
  expect(seen).toEqual([6, 5, 4, 3, 2, 1]);
  const filtered = async (filter: object) =>
    (await log.list(caller, { log: "team", limit: 9, ...filter })).entries.map(({ number }) => number);
  expect(await filtered({ action: "sandbox.delete" })).toEqual([6]);
  expect(await filtered({ status: "failure" })).toEqual([6]);
  expect(await filtered({ resource_kind: "sandbox", resource_id: "i2" })).toEqual([2]);
  expect(await filtered({ actor: "nobody" })).toEqual([]);
  expect(await filtered({ from: "2026-03-03T00:00:00Z", to: "2026-03-05T00:00:00Z" })).toEqual([3, 2]);
  await expect(log.list(caller, { log: "team", limit: 1, cursor: "nonsense!" })).rejects.toMatchObject({ code: "request_invalid" });
});

test("what waits is stored in order, in spite of a database that fails for a while; what cannot be goes to the log", async () => {
  const audit = new Audit();
  let failures = 2;
  const failing = new Proxy(audit, {
    get: (target, name) =>
      name === "append"
        ? async (...all: Parameters<Audit["append"]>) => {
            if (failures > 0) {
              failures -= 1;
              throw new Error("no database");
            }
            return target.append(...all);
          }
        : target.pending.bind(target),
  });
  const queue = new AuditQueue(failing, database.db, silentLogger);
  for (const id of ["a", "b", "c"]) queue.add(callerOf(team), entry(id));
  await queue.close();
  expect((await walkAudit(database.db, team, 0, 10)).map((row) => row.resource_id)).toEqual(["a", "b", "c"]);

  failures = Number.POSITIVE_INFINITY;
  const lines: unknown[] = [];
  const log = { child: () => ({ info: () => {}, warn: () => {}, error: (line: unknown) => lines.push(line) }) };
  const lost = new AuditQueue(failing, database.db, log as never);
  lost.add(callerOf(team), entry("lost"));
  await lost.close();
  expect(lines).toMatchObject([{ entry: { resource_id: "lost", action: "sandbox.create" } }]);
});
