import { newSandboxId, sandboxStates, type SandboxState } from "@roost/contract";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { firstTeam, own } from "../testing/first-team.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import type { Database, Db } from "./database.ts";
import { listSandboxes } from "./list-sandboxes.ts";
import {
  applyObserved,
  findSandbox,
  forgetStopped,
  insertSandbox,
  markCreateFailed,
  markLost,
  markStopped,
  requestDelete,
  type ObservedSandbox,
  type SandboxRow,
} from "./sandboxes.ts";

let database: Database;
let db: Db;
beforeAll(async () => {
  database = await openTestDatabase();
  db = database.db;
}, 60_000);
afterAll(async () => database.close());

const now = new Date("2026-01-02T03:04:05.678Z");

function observed(id: string, generation: number, state: SandboxState = "running", more: Partial<ObservedSandbox> = {}): ObservedSandbox {
  return {
    id,
    hostId: "host-1",
    template: "base",
    vcpus: 1,
    memoryMib: 512,
    diskSizeMib: 1024,
    timeoutSec: 60,
    accessToken: "token",
    state,
    generation,
    failureReason: state === "failed" ? "boom" : null,
    stopReason: null,
    vmExit: null,
    versions: {},
    timeCreated: now,
    timeStarted: now,
    timeLastActive: now,
    checkpointIntervalSec: 0,
    startPath: null,
    currentGeneration: null,
    hasMemory: false,
    timePaused: null,
    notice: null,
    ...more,
  };
}

async function insert(
  more: { id?: string; timeCreated?: Date; metadata?: Record<string, string>; template?: string } = {},
): Promise<SandboxRow> {
  return insertSandbox(db, {
    ...plainSandbox,
    id: more.id ?? newSandboxId(),
    hostId: "host-1",
    template: more.template ?? "base",
    timeoutSec: 60,
    metadata: more.metadata ?? {},
    timeCreated: more.timeCreated ?? now,
  });
}

async function stateOf(id: string): Promise<SandboxState | undefined> {
  return (await findSandbox(db, own(id)))?.state;
}

test("a row comes back as it went in", async () => {
  const row = await insert({ metadata: { "a'b": 'ü"{}' } });
  expect(await findSandbox(db, own(row.id))).toEqual(row);
  expect(row).toMatchObject({ state: "creating", generation: 0, metadata: { "a'b": 'ü"{}' }, time_created: now, time_started: null });
});

test("only what is newer is applied, and a repeated report is no news", async () => {
  const { id } = await insert();
  expect(await applyObserved(db, observed(id, 3), now)).toBe("applied");
  expect(await applyObserved(db, observed(id, 3, "stopping"), now)).toBe("stale");
  expect(await applyObserved(db, observed(id, 2, "creating"), now)).toBe("stale");
  expect(await stateOf(id)).toBe("running");
  expect(await applyObserved(db, observed(id, 4, "failed"), now)).toBe("applied");
  expect(await findSandbox(db, own(id))).toMatchObject({ state: "failed", failure_reason: "boom", generation: 4 });
});

test("what a host says of a sandbox that has no record makes none", async () => {
  const id = newSandboxId();
  expect(await applyObserved(db, observed(id, 7, "running"), now)).toBe("stale");
  expect(await findSandbox(db, own(id))).toBeUndefined();
});

test("another host's word on a sandbox counts for nothing", async () => {
  const { id } = await insert();
  expect(await applyObserved(db, observed(id, 9, "failed", { hostId: "host-2" }), now)).toBe("stale");
  expect(await stateOf(id)).toBe("creating");
});

test("what has stopped stays stopped and keeps no access token", async () => {
  const { id } = await insert();
  expect(await markStopped(db, id, "deleted", now)).toBe(true);
  expect(await markStopped(db, id, "shutdown", now)).toBe(false);
  expect(await applyObserved(db, observed(id, 99), now)).toBe("stale");
  expect(await findSandbox(db, own(id))).toMatchObject({ state: "stopped", stop_reason: "deleted", access_token: "", time_stopped: now });
});

test("the reason a host gave for the end is kept", async () => {
  const { id } = await insert();
  await applyObserved(db, observed(id, 1, "stopping", { stopReason: "shutdown" }), now);
  await markStopped(db, id, "deleted", now);
  expect((await findSandbox(db, own(id)))?.stop_reason).toBe("shutdown");
});

test("lost means lost only if nothing changed since it was looked at", async () => {
  const { id } = await insert();
  await applyObserved(db, observed(id, 1), now);
  const seen = await findSandbox(db, own(id));
  if (seen === undefined) throw new Error("no row");
  await applyObserved(db, observed(id, 2), now);
  expect(await markLost(db, seen, "lost", now)).toBe(false);
  expect(await stateOf(id)).toBe("running");
});

test("a lost sandbox that its host shows again is taken back, even at the same generation", async () => {
  const { id } = await insert();
  await applyObserved(db, observed(id, 5), now);
  const seen = await findSandbox(db, own(id));
  if (seen === undefined) throw new Error("no row");
  expect(await markLost(db, seen, "lost by its host", now)).toBe(true);
  expect(await findSandbox(db, own(id))).toMatchObject({ state: "failed", failure_reason: "lost by its host", time_lost: now });
  expect(await applyObserved(db, observed(id, 5), now)).toBe("applied");
  expect(await findSandbox(db, own(id))).toMatchObject({ state: "running", failure_reason: null, time_lost: null });
});

test("a create fails only as long as its host has said nothing", async () => {
  const { id } = await insert();
  await applyObserved(db, observed(id, 1), now);
  expect(await markCreateFailed(db, id, "too late", now)).toBe(false);
  const other = await insert();
  expect(await markCreateFailed(db, other.id, "the host said no", now)).toBe(true);
});

test("asking for the end again keeps the first time", async () => {
  const { id } = await insert();
  await requestDelete(db, own(id), now);
  const row = await requestDelete(db, own(id), new Date(now.getTime() + 5_000));
  expect(row?.time_delete_requested).toEqual(now);
  expect(await requestDelete(db, own("inosuch"), now)).toBeUndefined();
});

test.each([
  ["a failure without a reason", { state: "failed" }],
  ["a reason without a failure", { failure_reason: "x" }],
  ["stopped without a time", { state: "stopped", access_token: "" }],
  ["stopped with a token", { state: "stopped", time_stopped: now }],
  ["lost but running", { time_lost: now }],
  ["a state there is not", { state: "sleeping" }],
  ["no vcpus", { vcpus: 0 }],
  ["a generation below zero", { generation: -1 }],
])("the database refuses an impossible row: %s", async (_what, change) => {
  const { id } = await insert();
  await expect(
    db
      .updateTable("sandbox")
      .set(change as never)
      .where("id", "=", id)
      .execute(),
  ).rejects.toThrow(/constraint|violates/);
});

test("any order of any reports ends with the newest one, or stopped", async () => {
  const states = fc.constantFrom(...sandboxStates.filter((state) => state !== "stopped"));
  const reports = fc.array(fc.record({ generation: fc.integer({ min: 1, max: 6 }), state: states }), { minLength: 1, maxLength: 8 });
  await fc.assert(
    fc.asyncProperty(reports, fc.boolean(), async (history, isStopped) => {
      const { id } = await insert();
      let newest: { generation: number; state: SandboxState } = { generation: 0, state: "creating" };
      for (const report of history) {
        const applied = await applyObserved(db, observed(id, report.generation, report.state), now);
        expect(applied).toBe(report.generation > newest.generation ? "applied" : "stale");
        if (report.generation > newest.generation) newest = report;
      }
      if (isStopped) {
        await markStopped(db, id, "deleted", now);
        expect(await applyObserved(db, observed(id, 100), now)).toBe("stale");
      }
      expect(await stateOf(id)).toBe(isStopped ? "stopped" : newest.state);
    }),
    { numRuns: 40 },
  );
});

test("pages follow each other without gap or repetition, also where times are equal", async () => {
  const template = `paging${newSandboxId()}`;
  const ids: string[] = [];
  for (let index = 0; index < 7; index += 1)
    ids.push((await insert({ template, timeCreated: new Date(now.getTime() + Math.trunc(index / 3)) })).id);
  const seen: SandboxRow[] = [];
  for (;;) {
    const last = seen.at(-1);
    const page = await listSandboxes(db, {
      teamId: firstTeam,
      template,
      limit: 2,
      ...(last === undefined ? {} : { after: { timeCreated: last.time_created, id: last.id } }),
    });
    if (page.length === 0) break;
    seen.push(...page);
  }
  expect(new Set(seen.map((row) => row.id))).toEqual(new Set(ids));
  expect(seen).toHaveLength(7);
  const times = seen.map((row) => row.time_created.getTime());
  expect(times).toEqual([...times].sort((a, b) => b - a));
});

test("filters: states, metadata with every character, and nothing stopped unless asked", async () => {
  const template = `filter${newSandboxId()}`;
  const one = await insert({ template, metadata: { "k%": "'; DROP TABLE sandbox; --", other: "x" } });
  const two = await insert({ template, metadata: { "k%": "no" } });
  await markStopped(db, two.id, "deleted", now);
  const ids = async (filter: object) =>
    (await listSandboxes(db, { teamId: firstTeam, template, limit: 10, ...filter })).map((row) => row.id);
  expect(await ids({})).toEqual([one.id]);
  expect(await ids({ states: ["stopped"] })).toEqual([two.id]);
  expect(await ids({ states: ["stopped", "creating"], metadata: { "k%": "'; DROP TABLE sandbox; --" } })).toEqual([one.id]);
  expect(await ids({ metadata: { "k%": "'; DROP TABLE sandbox; --", other: "y" } })).toEqual([]);
});

test("records of what stopped long ago are forgotten, others kept", async () => {
  const old = await insert();
  const recent = await insert();
  const failed = await insert();
  await markStopped(db, old.id, "deleted", new Date("2020-01-01"));
  await markStopped(db, recent.id, "deleted", now);
  await markCreateFailed(db, failed.id, "x", new Date("2020-01-01"));
  expect(await forgetStopped(db, new Date("2021-01-01"))).toBe(1);
  expect(await stateOf(old.id)).toBeUndefined();
  expect(await stateOf(recent.id)).toBe("stopped");
  expect(await stateOf(failed.id)).toBe("failed");
});
