import { newSandboxId, usageQuerySchema, type EventKind, type SandboxState } from "@roost/contract";
import { must } from "@roost/kit";
import fc from "fast-check";
import { sql } from "kysely";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import {
  applyObserved,
  findSandboxOfAnyTeam,
  insertSandbox,
  markCreateFailed,
  markLost,
  markStopped,
  type ObservedSandbox,
} from "../db/sandboxes.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Usage } from "./usage.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  await database.db.deleteFrom("sandbox").execute();
  await database.db.deleteFrom("sandbox_interval").execute();
});

const midnight = new Date("2026-03-10T00:00:00.000Z").getTime();
/** So many s after midnight */
const at = (sec: number) => new Date(midnight + sec * 1_000);
const team = "default";

interface Told {
  readonly state: SandboxState;
  readonly started?: number | null;
  readonly paused?: number | null;
  /** When the control plane hears of it; default: at once */
  readonly heard?: number;
}

/** A sandbox with 2 vCPUs, 512 MiB of memory and 1000 MiB of disk, of which a host tells. */
class Subject {
  readonly id = newSandboxId();
  #generation = 0;

  async create(sec: number): Promise<this> {
    await insertSandbox(database.db, {
      ...plainSandbox,
      ...sizes,
      teamId: team,
      templateSnapshotId: null,
      id: this.id,
      timeCreated: at(sec),
    });
    return this;
  }

  async tell({ state, started = null, paused = null, heard }: Told): Promise<void> {
    this.#generation += 1;
    const observed: ObservedSandbox = {
      ...sizes,
      id: this.id,
      state,
      generation: this.#generation,
      failureReason: null,
      stopReason: null,
      vmExit: null,
      versions: {},
      timeCreated: at(0),
      timeStarted: started === null ? null : at(started),
      timeLastActive: at(0),
      startPath: null,
      currentGeneration: null,
      hasMemory: false,
      timePaused: paused === null ? null : at(paused),
      notice: null,
    };
    await applyObserved(database.db, observed, at(heard ?? paused ?? started ?? 0));
  }

  /** As `state from–to`, in s; neighbours of the same state as one. */
  async intervals(): Promise<string[]> {
    const rows = await database.db
      .selectFrom("sandbox_interval")
      .selectAll()
      .where("sandbox_id", "=", this.id)
      .orderBy("time_started")
      .execute();
    const secOf = (time: Date) => (time.getTime() - midnight) / 1_000;
    const merged: { state: string; from: number; to: number | null }[] = [];
    for (const row of rows) {
      const last = merged.at(-1);
      const to = row.time_ended === null ? null : secOf(row.time_ended);
      if (last !== undefined && last.state === row.state && last.to === secOf(row.time_started)) last.to = to;
      else merged.push({ state: row.state, from: secOf(row.time_started), to });
    }
    return merged.map(({ state, from, to }) => `${state} ${from}–${to ?? ""}`);
  }
}

const sizes = {
  hostId: "host-1",
  template: "base",
  vcpus: 2,
  memoryMib: 512,
  diskSizeMib: 1000,
  timeoutSec: 60,
  accessToken: "token",
  checkpointIntervalSec: 0,
};

const told = (kind: EventKind, sandboxId: string, time: Date, hostId = sizes.hostId, detail: Record<string, string> = {}) => ({
  kind,
  sandboxId,
  time,
  hostId,
  detail,
});
const usageAt = (nowSec: number) => new Usage(database.db, () => at(nowSec));
const query = (from: number, to: number | undefined, group: "day" | "sandbox" | "template" = "day") =>
  usageQuerySchema.parse({ from: at(from).toISOString(), ...(to === undefined ? {} : { to: at(to).toISOString() }), group });

test("a sandbox that lived a second counts a second", async () => {
  const sandbox = await new Subject().create(9);
  await sandbox.tell({ state: "running", started: 10 });
  await markStopped(database.db, sandbox.id, "deleted", at(11));
  expect(await sandbox.intervals()).toEqual(["running 10–11"]);
  const { total, rows, is_complete } = await usageAt(100).get(team, query(0, 100, "sandbox"));
  expect(total).toEqual({ sandbox_seconds: 1, vcpu_seconds: 2, memory_mib_seconds: 512, disk_mib_seconds: 1000 });
  expect(rows).toEqual([{ key: sandbox.id, ...total }]);
  expect(is_complete).toBe(true);
});

test("while it is being saved it still has what it had; paused it has its disk; of other teams nothing is told", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 10 });
  await sandbox.tell({ state: "snapshotting", started: 10, heard: 12 });
  await sandbox.tell({ state: "running", started: 10, heard: 13 });
  await sandbox.tell({ state: "pausing", started: 10, heard: 19 });
  await sandbox.tell({ state: "paused", paused: 20 });
  await sandbox.tell({ state: "resuming", paused: 20, heard: 29 });
  await sandbox.tell({ state: "running", started: 30 });
  await sandbox.tell({ state: "stopping", started: 30, heard: 33 });
  await markStopped(database.db, sandbox.id, "deleted", at(34));
  expect(await sandbox.intervals()).toEqual(["running 10–20", "paused 20–30", "running 30–34"]);
  const { total } = await usageAt(100).get(team, query(0, 100));
  expect(total).toEqual({ sandbox_seconds: 14, vcpu_seconds: 28, memory_mib_seconds: 14 * 512, disk_mib_seconds: 24 * 1000 });
  expect((await usageAt(100).get("gother", query(0, 100))).total.sandbox_seconds).toBe(0);
});

test("spans are cut to what was asked, days at midnight, and what goes on is counted up to now", async () => {
  const hour = 3_600;
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: -2 * hour });
  const now = 25 * hour;
  const day = await usageAt(now).get(team, query(-24 * hour, undefined));
  expect(day.rows.map(({ key, sandbox_seconds }) => [key, sandbox_seconds])).toEqual([
    ["2026-03-09", 2 * hour],
    ["2026-03-10", 24 * hour],
    ["2026-03-11", 1 * hour],
  ]);
  expect(day.total.sandbox_seconds).toBe(27 * hour);
  expect(day.to).toBe(at(now).toISOString());
  expect((await usageAt(now).get(team, query(1, 3))).total).toMatchObject({ sandbox_seconds: 2, vcpu_seconds: 4 });
  expect((await usageAt(now).get(team, query(-9 * hour, -2 * hour))).rows).toEqual([]);
  // What is yet to come is not counted
  expect((await usageAt(now).get(team, query(24 * hour, 30 * hour))).total.sandbox_seconds).toBe(1 * hour);
  await database.db.updateTable("sandbox").set({ template: "other" }).execute();
  expect((await usageAt(now).get(team, query(0, 10, "template"))).rows).toMatchObject([{ key: "base", sandbox_seconds: 10 }]);
});

test("a day is 24 hours, whatever the time zone of the database's server, and is told once", async () => {
  const hour = 3_600;
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 17 * 24 * hour }); // 2026-03-27; on the 29th summer time begins in Berlin
  await sql`SET TIME ZONE 'Europe/Berlin'`.execute(database.db);
  try {
    const { rows } = await usageAt(21 * 24 * hour).get(team, query(17 * 24 * hour, undefined));
    expect(rows.map(({ key, sandbox_seconds }) => [key, sandbox_seconds])).toEqual(
      [27, 28, 29, 30].map((date) => [`2026-03-${date}`, 24 * hour]),
    );
  } finally {
    await sql`SET TIME ZONE DEFAULT`.execute(database.db);
  }
});

test("what another host tells of a sandbox changes nothing", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 1 });
  await usageAt(100).happened(told("sandbox.paused", sandbox.id, at(10), "host-2"));
  expect(await sandbox.intervals()).toEqual(["running 1–"]);
});

test("questions that make no sense, and those about more than 400 days, are refused", async () => {
  await expect(usageAt(10).get(team, query(5, 5))).rejects.toMatchObject({ code: "request_invalid" });
  await expect(usageAt(10).get(team, query(-500 * 86_400, 0))).rejects.toThrow(/at most 400 days/);
  await expect(usageAt(10).get(team, query(50, undefined))).rejects.toMatchObject({ code: "request_invalid" });
  expect(usageQuerySchema.safeParse({ from: "yesterday" }).success).toBe(false);
});

test("a create that fails counts nothing; one that was lost and found ran all the time", async () => {
  const failed = await new Subject().create(0);
  await markCreateFailed(database.db, failed.id, "no room", at(5));
  expect(await failed.intervals()).toEqual([]);
  const lost = await new Subject().create(0);
  await lost.tell({ state: "running", started: 1 });
  await markLost(database.db, must(await findSandboxOfAnyTeam(database.db, lost.id), "the record"), "its host does not know it", at(10));
  expect(await lost.intervals()).toEqual(["running 1–10"]);
  await lost.tell({ state: "running", started: 1, heard: 20 });
  expect(await lost.intervals()).toEqual(["running 1–"]);
});

test("a host's clock that is ahead is not believed; one that is behind makes no interval end before it begins", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 500, heard: 10 });
  await sandbox.tell({ state: "paused", paused: 5, heard: 20 });
  expect(await sandbox.intervals()).toEqual(["running 10–20", "paused 20–"]);
  await markStopped(database.db, sandbox.id, "deleted", at(15));
  expect(await sandbox.intervals()).toEqual(["running 10–20"]);
});

test("pauses and resumes while nobody listened are found in what the host tells afterwards", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 1 });
  const usage = usageAt(100);
  // Unheard: paused 10, resumed 20, paused 30, resumed 40
  await sandbox.tell({ state: "running", started: 40, heard: 50 });
  const events = [
    ["sandbox.paused", 10],
    ["sandbox.resumed", 20],
    ["sandbox.auto_paused", 30],
    ["sandbox.auto_resumed", 40],
  ] as const;
  const truth = ["running 1–10", "paused 10–20", "running 20–30", "paused 30–40", "running 40–"];
  for (const times of [1, 2]) {
    for (const [kind, sec] of events) await usage.happened(told(kind, sandbox.id, at(sec)));
    expect(await sandbox.intervals(), `told ${times} times`).toEqual(truth);
  }
  await markStopped(database.db, sandbox.id, "deleted", at(60));
  // What comes later, or is of the future, opens nothing
  await usage.happened(told("sandbox.resumed", sandbox.id, at(70)));
  await usage.happened(told("sandbox.paused", sandbox.id, at(700)));
  await usage.happened(told("sandbox.created", sandbox.id, at(5)));
  expect(await sandbox.intervals()).toEqual([...truth.slice(0, -1), "running 40–60"]);
});

test("a lost VM is paused, or has failed; a rollback makes run what was paused", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 1 });
  const usage = usageAt(100);
  await usage.happened(told("sandbox.vm_lost", sandbox.id, at(10), undefined, { state: "failed" }));
  expect(await sandbox.intervals()).toEqual(["running 1–"]);
  await usage.happened(told("sandbox.vm_lost", sandbox.id, at(10), undefined, { state: "paused" }));
  await usage.happened(told("sandbox.rolled_back", sandbox.id, at(20)));
  expect(await sandbox.intervals()).toEqual(["running 1–10", "paused 10–20", "running 20–"]);
});

test("paused and resumed at one instant: it runs on from then, not only since that was heard", async () => {
  const sandbox = await new Subject().create(0);
  await sandbox.tell({ state: "running", started: 1 });
  await sandbox.tell({ state: "paused", paused: 10 });
  await sandbox.tell({ state: "running", started: 10, heard: 30 });
  expect(await sandbox.intervals()).toEqual(["running 1–"]);
});

test("whatever is heard late, twice or not at all, once all is told the intervals are the truth", async () => {
  const step = fc.record({ sec: fc.integer({ min: 1, max: 50 }), isHeard: fc.boolean(), isToldAfter: fc.boolean() });
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 1, maxLength: 8 }), fc.boolean(), async (steps, isStopped) => {
      const sandbox = await new Subject().create(0);
      const usage = usageAt(10_000);
      const truth: string[] = [];
      const events: { kind: "sandbox.paused" | "sandbox.resumed"; sec: number }[] = [];
      let now = 1;
      let from = now;
      let isRunning = true;
      await sandbox.tell({ state: "running", started: now });
      for (const { sec, isHeard, isToldAfter } of steps) {
        now += sec;
        truth.push(`${isRunning ? "running" : "paused"} ${from}–${now}`);
        isRunning = !isRunning;
        from = now;
        events.push({ kind: isRunning ? "sandbox.resumed" : "sandbox.paused", sec: now });
        if (isHeard) await sandbox.tell(isRunning ? { state: "running", started: now } : { state: "paused", paused: now });
        if (isToldAfter) for (const event of events) await usage.happened(told(event.kind, sandbox.id, at(event.sec)));
      }
      await sandbox.tell(
        isRunning ? { state: "running", started: from, heard: now + 5 } : { state: "paused", paused: from, heard: now + 5 },
      );
      for (const event of events) await usage.happened(told(event.kind, sandbox.id, at(event.sec)));
      if (isStopped) await markStopped(database.db, sandbox.id, "deleted", at(now + 7));
      truth.push(`${isRunning ? "running" : "paused"} ${from}–${isStopped ? now + 7 : ""}`);
      expect(await sandbox.intervals()).toEqual(truth);
    }),
    { numRuns: 60 },
  );
}, 60_000);

test("stats tell what runs now, the most at any instant, and the most in each step", async () => {
  const [one, two, brief] = [await new Subject().create(0), await new Subject().create(0), await new Subject().create(0)];
  await one.tell({ state: "running", started: -10_000 });
  await two.tell({ state: "running", started: 100 });
  await brief.tell({ state: "running", started: 1_000 });
  await markStopped(database.db, brief.id, "deleted", at(1_001));
  await two.tell({ state: "paused", paused: 2_000 });
  const stats = await usageAt(3_600).stats(team, { range: "1h" });
  expect(stats.now).toEqual({ running: 1, paused: 1, vcpus: 2, memory_mb: 512 });
  expect(stats.peaks).toEqual({ running: 3, vcpus: 6, memory_mb: 1_536 });
  expect(stats.series).toHaveLength(120);
  const runningAt = (sec: number) => stats.series.find(({ time }) => time === at(Math.floor(sec / 30) * 30).toISOString())?.running;
  expect([0, 99, 100, 950, 1_000, 1_030, 2_000, 2_020, 3_590].map(runningAt)).toEqual([1, 2, 2, 2, 3, 2, 2, 1, 1]);
});

test("one that ends as another begins is never two at once, and what works for a build is not shown as running", async () => {
  const [one, two, build] = [await new Subject().create(0), await new Subject().create(0), await new Subject().create(0)];
  await one.tell({ state: "running", started: 10 });
  await markStopped(database.db, one.id, "deleted", at(20));
  await two.tell({ state: "running", started: 20 });
  await sql`UPDATE sandbox SET for_build_id = '00000000-0000-4000-8000-000000000000' WHERE id = ${build.id}`.execute(database.db);
  await build.tell({ state: "running", started: 15 });
  const stats = await usageAt(60).stats(team, { range: "5m" });
  expect(stats.peaks.running).toBe(1);
  expect(stats.now.running).toBe(1);
  expect((await usageAt(60).get(team, query(0, 60))).total.sandbox_seconds).toBe(10 + 40 + 45);
});
