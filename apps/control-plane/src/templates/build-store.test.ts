import { randomUUID } from "node:crypto";

import { buildLogLineBytesMax, buildLogLinesMax } from "@roost/contract";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database, Db } from "../db/database.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import {
  appendBuildLog,
  claimBuild,
  findBuild,
  finishBuild,
  listOpenBuilds,
  renewClaim,
  requestCancel,
  updateBuild,
  type BuildRow,
} from "./build-store.ts";

let database: Database;
let db: Db;
beforeAll(async () => {
  database = await openTestDatabase();
  db = database.db;
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await db.deleteFrom("built_template").execute();
  await db
    .insertInto("built_template")
    .values({ id: "t1", team_id: firstTeam, name: "one", is_public: false, time_created: at(0), time_updated: at(0) })
    .execute();
});

const at = (minute: number) => new Date(Date.UTC(2026, 0, 1, 0, minute));

async function insert(
  minute: number,
  { recipe = "{}", tags = ["default"] }: { recipe?: string | null; tags?: string[] } = {},
): Promise<BuildRow> {
  return db
    .insertInto("build")
    .values({
      id: randomUUID(),
      team_id: firstTeam,
      template_id: "t1",
      state: "waiting",
      tags: JSON.stringify(tags),
      recipe,
      vcpus: 1,
      memory_mib: 512,
      time_created: at(minute),
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

const claim = (claimedBy: string, minute: number, isExclusive = false) =>
  claimBuild(db, { claimedBy, now: at(minute), claimEnds: at(minute + 1), isExclusive });

async function logOf(id: string) {
  return db.selectFrom("build_log").selectAll().where("build_id", "=", id).orderBy("number").execute();
}

test("the oldest build that has a recipe is taken on first, each once", async () => {
  await insert(0, { recipe: null });
  const second = await insert(2);
  const first = await insert(1);
  expect((await listOpenBuilds(db)).length).toBe(3);
  const claimed = await claim("a", 5);
  expect(claimed).toMatchObject({
    id: first.id,
    state: "building",
    claimed_by: "a",
    time_started: at(5),
    time_claim_ends: at(6),
    generation: 2,
  });
  expect((await claim("a", 5))?.id).toBe(second.id);
  expect(await claim("a", 5)).toBeUndefined();
});

test("a build whose claim ended is taken over, and its former holder can write nothing any more", async () => {
  await insert(0);
  const held = await claim("a", 1);
  if (held === undefined) throw new Error("nothing to claim");
  expect(await claim("b", 1)).toBeUndefined();
  const renewed = await renewClaim(db, held, at(10));
  expect(renewed).toMatchObject({ time_claim_ends: at(10), generation: held.generation });
  expect(await claim("b", 5)).toBeUndefined();
  const taken = await claim("b", 10);
  expect(taken).toMatchObject({ id: held.id, claimed_by: "b", time_started: at(1) });
  expect(await renewClaim(db, held, at(20))).toBeUndefined();
  expect(await updateBuild(db, held, { steps_done: 1 })).toBeUndefined();
  expect(await finishBuild(db, held, { state: "cancelled" }, at(11))).toBeUndefined();
  expect((await findBuild(db, own(held.id)))?.state).toBe("building");
});

test("on an exclusive database the claim of a process that ended does not count, but one's own does", async () => {
  await insert(0);
  await claim("before", 1);
  expect(await claim("after", 1)).toBeUndefined();
  expect((await claim("after", 1, true))?.claimed_by).toBe("after");
  expect(await claim("after", 1, true)).toBeUndefined();
});

test("an update of a stale row does nothing", async () => {
  await insert(0);
  const held = await claim("a", 1);
  if (held === undefined) throw new Error("nothing to claim");
  const next = await updateBuild(db, held, { step_count: 4, steps_done: 2, steps_cached: 1, host_id: "host-1" });
  expect(next).toMatchObject({ step_count: 4, steps_done: 2, steps_cached: 1, host_id: "host-1", generation: held.generation + 1 });
  expect(await updateBuild(db, held, { steps_done: 0 })).toBeUndefined();
});

async function tagHolder(tag = "default") {
  return (await db.selectFrom("template_tag").select("build_id").where("template_id", "=", "t1").where("tag", "=", tag).executeTakeFirst())
    ?.build_id;
}

test("a ready build gets its tags, but not from a later one", async () => {
  const early = await insert(1, { tags: ["default", "early"] });
  const late = await insert(2, { tags: ["default", "late"] });
  const [first, second] = [await claim("a", 3), await claim("a", 3)];
  if (first?.id !== early.id || second?.id !== late.id) throw new Error("claimed in another order");
  const ready = await finishBuild(db, second, { state: "ready", hostTemplate: "build-2", sizeBytes: 7, resultKey: "same" }, at(4));
  expect(ready).toMatchObject({ state: "ready", host_template: "build-2", size_bytes: 7, time_ended: at(4), claimed_by: null });
  await finishBuild(db, first, { state: "ready", hostTemplate: "build-1", sizeBytes: 7, resultKey: "same" }, at(5));
  expect([await tagHolder(), await tagHolder("late"), await tagHolder("early")]).toEqual([late.id, late.id, early.id]);
  const newest = await insert(6);
  const third = await claim("a", 7);
  if (third === undefined) throw new Error("nothing to claim");
  await finishBuild(db, third, { state: "ready", hostTemplate: "build-3", sizeBytes: 7, resultKey: "same" }, at(8));
  expect(await tagHolder()).toBe(newest.id);
});

test("a failed one says why, in text that can be stored, and gets no tags", async () => {
  await insert(0);
  const held = await claim("a", 1);
  if (held === undefined) throw new Error("nothing to claim");
  const failed = await finishBuild(db, held, { state: "failed", failure: { message: "no\0 \ud800", step: "2" } }, at(2));
  expect(failed).toMatchObject({ state: "failed", failure: { message: "no\ufffd \ufffd", step: "2" } });
  expect(await tagHolder()).toBeUndefined();
  expect(await listOpenBuilds(db)).toEqual([]);
});

test("what waits is cancelled at once, what is worked at when that is seen, and then it cannot become ready", async () => {
  const waiting = await insert(0, { recipe: null });
  expect(await requestCancel(db, own(waiting.id), at(1))).toMatchObject({ state: "cancelled", time_ended: at(1) });
  const building = await insert(1);
  const held = await claim("a", 2);
  if (held === undefined) throw new Error("nothing to claim");
  expect(await requestCancel(db, own(building.id), at(3))).toMatchObject({ state: "building", time_cancel_requested: at(3) });
  expect(await requestCancel(db, own(building.id), at(4))).toMatchObject({ time_cancel_requested: at(3) });
  expect(await renewClaim(db, held, at(5))).toMatchObject({ time_cancel_requested: at(3) });
  expect(await finishBuild(db, held, { state: "ready", hostTemplate: "build-1", sizeBytes: 1, resultKey: "same" }, at(5))).toBeUndefined();
  expect(await tagHolder()).toBeUndefined();
  expect(await finishBuild(db, held, { state: "cancelled" }, at(5))).toMatchObject({ state: "cancelled" });
  expect(await requestCancel(db, own(building.id), at(6))).toMatchObject({
    state: "cancelled",
    time_ended: at(5),
    time_cancel_requested: at(3),
  });
  expect(await requestCancel(db, own(randomUUID()), at(6))).toBeUndefined();
});

test("lines of a log are numbered without gaps, also when several write", async () => {
  const { id } = await insert(0);
  const line = (message: string) => ({ time: at(1), level: "info" as const, step: "0", message });
  await appendBuildLog(db, id, []);
  await Promise.all([appendBuildLog(db, id, [line("a"), line("b")]), appendBuildLog(db, id, [line("c")])]);
  const lines = await logOf(id);
  expect(lines.map(({ number }) => number)).toEqual([0, 1, 2]);
  expect(lines.map(({ message }) => message).sort()).toEqual(["a", "b", "c"]);
  expect((await findBuild(db, own(id)))?.log_count).toBe(3);
  await appendBuildLog(db, randomUUID(), [line("of nothing")]);
});

test("long lines are cut between characters, and what cannot be stored is replaced", async () => {
  const { id } = await insert(0);
  const messages = ["x".repeat(buildLogLineBytesMax), "ü".repeat(buildLogLineBytesMax), "😀".repeat(buildLogLineBytesMax), "a\0b"];
  await appendBuildLog(
    db,
    id,
    messages.map((message) => ({ time: at(1), level: "info", step: null, message })),
  );
  const lines = (await logOf(id)).map(({ message }) => message);
  expect(lines[0]).toBe(messages[0]);
  for (const line of lines.slice(1, 3)) {
    expect(Buffer.byteLength(line)).toBeLessThanOrEqual(buildLogLineBytesMax);
    expect(Buffer.byteLength(line)).toBeGreaterThan(buildLogLineBytesMax - 8);
    expect(line).toMatch(/ …$/);
    expect(line).not.toContain("\ufffd");
  }
  expect(lines[3]).toBe("a\ufffdb");
});

test("a log ends with a line that says so when it is full", async () => {
  const { id } = await insert(0);
  const lines = (count: number) => Array.from({ length: count }, () => ({ time: at(1), level: "info" as const, step: null, message: "x" }));
  await db
    .updateTable("build")
    .set({ log_count: buildLogLinesMax - 2 })
    .where("id", "=", id)
    .execute();
  await appendBuildLog(db, id, lines(1));
  await appendBuildLog(db, id, lines(5));
  await appendBuildLog(db, id, lines(5));
  const kept = await logOf(id);
  expect(kept.map(({ number, message }) => [number, message])).toEqual([
    [buildLogLinesMax - 2, "x"],
    [buildLogLinesMax - 1, `the log ends here: it has ${buildLogLinesMax} lines`],
  ]);
  expect((await findBuild(db, own(id)))?.log_count).toBe(buildLogLinesMax);
});

test("many lines at once", async () => {
  const { id } = await insert(0);
  await appendBuildLog(
    db,
    id,
    Array.from({ length: 2_500 }, (_, index) => ({ time: at(1), level: "debug" as const, step: null, message: String(index) })),
  );
  const { rows } = await sql<{ count: number }>`SELECT count(*) FROM build_log WHERE build_id = ${id} AND message = number::text`.execute(
    db,
  );
  expect(Number(rows[0]?.count)).toBe(2_500);
});
