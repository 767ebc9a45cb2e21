import { createSandboxBodySchema, newSandboxId } from "@roost/contract";
import { hour, silentLogger } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { requireSameTime } from "./clock.ts";
import { openDatabase, type Database } from "./database.ts";
import { claimExpired, extendExpiry } from "./expiry.ts";
import { listSandboxes } from "./list-sandboxes.ts";
import { migrations } from "./migrations.generated.ts";
import { applyObserved, findSandbox, insertSandbox, type ObservedSandbox } from "./sandboxes.ts";

/** What PGlite cannot show: several writers at once. */

const why = whyNoPostgres();

describe.skipIf(why !== undefined)(`on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let postgres: TestPostgres;
  let one: Database;
  let two: Database;
  beforeAll(async () => {
    postgres = postgresOfRun();
    const url = await postgres.createDatabase();
    // Two control planes that start at the same moment on an empty database.
    [one, two] = await Promise.all([
      openDatabase({ kind: "server", url }, silentLogger),
      openDatabase({ kind: "server", url }, silentLogger),
    ]);
  });
  afterAll(async () => {
    await Promise.all([one.close(), two.close()]);
    await postgres[Symbol.asyncDispose]();
  });

  const now = new Date("2026-02-03T04:05:06.789Z");
  const observed = (id: string, generation: number): ObservedSandbox => ({
    id,
    hostId: "host-1",
    template: "base",
    vcpus: 1,
    memoryMib: 512,
    diskSizeMib: 1024,
    timeoutSec: 60,
    accessToken: "token",
    state: generation % 2 === 0 ? "running" : "snapshotting",
    generation,
    failureReason: null,
    stopReason: null,
    vmExit: { exit_code: 1, signal: null, console_tail: ["a"] },
    versions: { kernel: "6.1" },
    timeCreated: now,
    timeStarted: now,
    timeLastActive: now,
    checkpointIntervalSec: 0,
    startPath: null,
    currentGeneration: null,
    hasMemory: false,
    timePaused: null,
    notice: null,
  });

  test("a control plane whose clock is not the database's is not let in", async () => {
    await requireSameTime(one.db);
    await expect(requireSameTime(one.db, () => Date.now() + 1 * hour)).rejects.toThrow(/ s ahead of the database server's/);
    await expect(requireSameTime(one.db, () => Date.now() - 1 * hour)).rejects.toThrow(/ s behind the database server's/);
    expect(await one.clockAheadMs()).toBeTypeOf("number");
  });

  test("both migrated, once", async () => {
    expect(one.isExclusive).toBe(false);
    const rows = await two.db.selectFrom("migration").selectAll().execute();
    expect(rows.map((row) => row.number)).toEqual(migrations.map(({ number }) => number));
  });

  test("a row comes back with the types the code expects", async () => {
    const row = await insertSandbox(one.db, { ...observed(newSandboxId(), 0), ...plainSandbox, autoResume: false, metadata: { a: "ü" } });
    expect(await findSandbox(two.db, own(row.id))).toEqual(row);
    expect(row).toMatchObject({ generation: 0, metadata: { a: "ü" }, time_created: now });
    expect((await listSandboxes(two.db, { teamId: firstTeam, limit: 5, metadata: { a: "ü" } })).map((found) => found.id)).toContain(row.id);
  });

  test("of writers that race, the newest generation wins, whatever the order", async () => {
    const random = new SeededRandom();
    for (let round = 0; round < 10; round += 1) {
      const { id } = await insertSandbox(one.db, { ...observed(newSandboxId(), 0), ...plainSandbox, autoResume: false, metadata: {} });
      const generations = shuffled(random, 12);
      await Promise.all(
        generations.map((generation, index) => applyObserved((index % 2 === 0 ? one : two).db, observed(id, generation), now)),
      );
      expect(await findSandbox(one.db, own(id)), `SEED=${random.seed} replays this`).toMatchObject({ generation: 12, state: "running" });
    }
  });

  test("of an extension and an end that race, exactly one happens", async () => {
    const end = new Date(now.getTime() + 60_000);
    const before = new Date(end.getTime() - 1);
    let extendedCount = 0;
    for (let round = 0; round < 60; round += 1) {
      const { id } = await insertSandbox(one.db, {
        ...plainSandbox,
        ...observed(newSandboxId(), 0),
        expirySec: 60,
      });
      await applyObserved(one.db, observed(id, 2), now);
      expect((await findSandbox(one.db, own(id)))?.time_expires).toEqual(end);
      const extend = async () => extendExpiry(one.db, own(id), 600, before);
      const claim = async () => (await claimExpired(two.db, end, 10)).some((row) => row.id === id);
      const [extended, claimed] = await (round % 2 === 0
        ? Promise.all([extend(), claim()])
        : Promise.all([claim(), extend()]).then(([first, second]) => [second, first] as const));
      expect(claimed).toBe(extended === undefined);
      const row = await findSandbox(one.db, own(id));
      expect(row?.time_delete_requested === null).toBe(!claimed);
      if (extended !== undefined) extendedCount += 1;
    }
    expect(extendedCount).toBeGreaterThan(0);
  });

  test("two control planes on one host: creates, deletes and reconcilers of both agree", { timeout: 30_000 }, async () => {
    const host = new FakeHost("shared", () => 1);
    const planeOf = (database: Database) => {
      const link = new HostLink(host, silentLogger);
      const sandboxes = new Sandboxes({ database, hosts: new Hosts([link]), log: silentLogger, onEnded: () => undefined });
      const reconciler = new Reconciler({
        db: database.db,
        host: link,
        isExclusive: database.isExclusive,
        onEnded: () => undefined,
        log: silentLogger,
      });
      return { sandboxes, reconciler };
    };
    const planes = [planeOf(one), planeOf(two)] as const;
    const pick = (index: number) => planes[index % 2 === 0 ? 0 : 1];
    const body = createSandboxBodySchema.parse({});
    const done = new AbortController();
    const reconciling = planes.map(async ({ reconciler }) => {
      while (!done.signal.aborted) await reconciler.reconcile();
    });
    const made = await Promise.all(
      Array.from({ length: 20 }, (_, index) => pick(index).sandboxes.create(firstTeam, body, new AbortController().signal)),
    );
    const ids = made.map((row) => row.id);
    await Promise.all(ids.slice(0, 10).map((id, index) => pick(index + 1).sandboxes.delete(own(id))));
    done.abort();
    await Promise.all(reconciling);
    for (const { reconciler } of planes) await reconciler.reconcile();
    const states = await Promise.all(ids.map(async (id) => (await findSandbox(one.db, own(id)))?.state));
    expect(states).toEqual([...Array.from({ length: 10 }, () => "stopped"), ...Array.from({ length: 10 }, () => "running")]);
    expect(host.sandboxes.size).toBe(10);
  });
});

/** 1 to `count` in some order. */
function shuffled(random: SeededRandom, count: number): number[] {
  const keyed = Array.from({ length: count }, (_, index) => ({ value: index + 1, key: random.next() }));
  return keyed.sort((a, b) => a.key - b.key).map(({ value }) => value);
}
