import { silentLogger } from "@roost/kit";
import { sql } from "kysely";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { systemCaller } from "../accounts/caller.ts";
import { openDatabase, type Database } from "../db/database.ts";
import { applyObserved, insertSandbox, markStopped, type ObservedSandbox } from "../db/sandboxes.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";
import { Usage } from "../usage/usage.ts";
import { Audit } from "./audit.ts";
import { verifyChain } from "./verify-chain.ts";

const reason = whyNoPostgres();
if (reason !== undefined) console.warn(`skipped: ${reason}`);

describe.skipIf(reason !== undefined)("on a real PostgreSQL", () => {
  let postgres: TestPostgres;
  let replicas: readonly [Database, Database];
  beforeAll(async () => {
    postgres = postgresOfRun();
    const url = await postgres.createDatabase();
    replicas = [await openDatabase({ kind: "server", url }, silentLogger), await openDatabase({ kind: "server", url }, silentLogger)];
  }, 60_000);
  afterAll(async () => {
    for (const replica of replicas ?? []) await replica.close();
    await postgres?.[Symbol.asyncDispose]();
  });

  test("who appends at the same time waits: the chain has no gap, no fork, and nothing of what was undone", async () => {
    const audit = new Audit();
    const chains = ["default", "platform", "gother"];
    const acts = Array.from({ length: 120 }, async (_, index) => {
      const { db } = replicas[index % 2] ?? replicas[0];
      const teamId = chains[index % 3] ?? "default";
      const entry = { action: "sandbox.create", resource: { kind: "sandbox", id: `i${index}` }, teamId } as const;
      await db.transaction().execute(async (transaction) => {
        await audit.record(transaction, systemCaller("default"), entry);
        if (index % 10 === 0) throw new Error("undone");
      });
    });
    const outcomes = await Promise.allSettled(acts);
    expect(outcomes.filter(({ status }) => status === "rejected")).toHaveLength(12);
    for (const chain of chains) {
      const verified = await verifyChain(replicas[0].db, chain, { after: 0, entriesMax: 1_000 });
      expect(verified).toMatchObject({ is_intact: true, is_complete: true, checked: 36 });
    }
  }, 60_000);

  test("batches of several chains in opposite orders do not wait for each other for ever", async () => {
    const audit = new Audit();
    const pending = (chain: string) =>
      audit.pending(systemCaller(chain), { action: "sandbox.pause", resource: { kind: "sandbox", id: "i1" }, teamId: chain });
    const batches = Array.from({ length: 40 }, async (_, index) => {
      const entries = [pending("gone"), pending("gtwo")];
      await audit.append((replicas[index % 2] ?? replicas[0]).db, index % 2 === 0 ? entries : entries.reverse());
    });
    await Promise.all(batches);
    for (const chain of ["gone", "gtwo"]) {
      expect(await verifyChain(replicas[0].db, chain, { after: 0, entriesMax: 1_000 })).toMatchObject({ is_intact: true, checked: 40 });
    }
  }, 60_000);

  test("two replicas that hear the same of a sandbox count it once", async () => {
    const [one, two] = replicas;
    const time = (sec: number) => new Date(Date.UTC(2026, 2, 10, 0, 0, sec));
    const sizes = {
      template: "base",
      vcpus: 2,
      memoryMib: 512,
      diskSizeMib: 100,
      timeoutSec: 0,
      checkpointIntervalSec: 0,
      accessToken: "token",
    };
    const more = { teamId: "default", templateSnapshotId: null, hostId: "host-1", metadata: {}, autoResume: false, timeCreated: time(0) };
    await insertSandbox(one.db, { ...plainSandbox, ...sizes, ...more, id: "itwice" });
    const observed = (generation: number, state: "running" | "paused", sec: number): ObservedSandbox => ({
      ...sizes,
      id: "itwice",
      hostId: "host-1",
      state,
      generation,
      failureReason: null,
      stopReason: null,
      vmExit: null,
      versions: {},
      timeCreated: time(0),
      timeStarted: state === "running" ? time(sec) : null,
      timeLastActive: time(sec),
      startPath: null,
      currentGeneration: null,
      hasMemory: false,
      timePaused: state === "paused" ? time(sec) : null,
      notice: null,
    });
    for (const [generation, state, sec] of [
      [1, "running", 1],
      [2, "paused", 11],
      [3, "running", 21],
    ] as const) {
      await Promise.all(
        [one, two, one, two].map(async ({ db }) => {
          await applyObserved(db, observed(generation, state, sec), time(sec));
          const kind = state === "running" ? "sandbox.resumed" : "sandbox.paused";
          await new Usage(db).happened({ kind, sandboxId: "itwice", hostId: "host-1", time: time(sec), detail: {} });
        }),
      );
    }
    await Promise.all([one, two].map(async ({ db }) => markStopped(db, "itwice", "deleted", time(24))));
    const usage = new Usage(one.db, () => time(59));
    const { total, rows } = await usage.get("default", { from: time(0).toISOString(), to: time(59).toISOString(), group: "day" });
    expect(total).toEqual({ sandbox_seconds: 13, vcpu_seconds: 26, memory_mib_seconds: 13 * 512, disk_mib_seconds: 23 * 100 });
    expect(rows).toEqual([{ key: "2026-03-10", ...total }]);
    expect((await usage.stats("default", { range: "5m" })).peaks).toEqual({ running: 1, vcpus: 2, memory_mb: 512 });
    const { rows: kept } = await sql<{ count: number }>`SELECT count(*)::int AS count FROM sandbox_interval`.execute(one.db);
    expect(kept).toEqual([{ count: 3 }]);
  }, 60_000);
});
