import { createSandboxBodySchema, vmOverheadMib } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { openDatabase, type Database } from "../db/database.ts";
import { listUnsettled, takenOfHost } from "../db/reservations.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { KeyTaken } from "../operations/operations.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { firstTeam } from "../testing/first-team.ts";
import { whyNoPostgres } from "../testing/postgres-binaries.ts";
import { postgresOfRun } from "../testing/postgres-of-run.ts";
import type { TestPostgres } from "../testing/postgres.ts";

/** What only several writers at once can show: nothing is given away twice. */

const why = whyNoPostgres();
const memoryMib = 512;
/** Sandboxes that fit on a host */
const roomPerHost = 40;
const hostCount = 3;

describe.skipIf(why !== undefined)(`on PostgreSQL${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let postgres: TestPostgres;
  let databases: readonly [Database, Database];
  let hosts: readonly FakeHost[];
  let planes: readonly [Sandboxes, Sandboxes];
  beforeAll(async () => {
    postgres = postgresOfRun();
    const url = await postgres.createDatabase();
    databases = [await openDatabase({ kind: "server", url }, silentLogger), await openDatabase({ kind: "server", url }, silentLogger)];
    hosts = Array.from({ length: hostCount }, (_, index) => {
      const host = new FakeHost(`host-${index}`, () => 1);
      host.size = { ...host.size, sandboxCountMax: 1_000, memoryLimitMib: roomPerHost * (memoryMib + vmOverheadMib), cpuCount: 1_000 };
      return host;
    });
    const planeOf = (database: Database) =>
      new Sandboxes({
        database,
        hosts: new Hosts(hosts.map((host) => new HostLink(host, silentLogger))),
        roomWaitMs: 0,
        log: silentLogger,
        onEnded: () => undefined,
      });
    planes = [planeOf(databases[0]), planeOf(databases[1])];
  });
  afterAll(async () => {
    await Promise.all(databases.map(async (database) => database.close()));
    await postgres[Symbol.asyncDispose]();
  });
  const { signal } = new AbortController();
  const body = createSandboxBodySchema.parse({ memory_mb: memoryMib });

  test("500 creates at once on two control planes: each host is filled, none is overfilled", { timeout: 120_000 }, async () => {
    const outcomes = await Promise.allSettled(
      Array.from({ length: 500 }, async (_, index) => planes[index % 2 === 0 ? 0 : 1].create(firstTeam, body, signal)),
    );
    const refused = outcomes.flatMap((outcome) => (outcome.status === "rejected" ? [outcome.reason as unknown] : []));
    expect(outcomes.length - refused.length).toBe(hostCount * roomPerHost);
    for (const reason of refused) expect(reason).toMatchObject({ code: "capacity_exhausted", retryAfterSec: 10 });
    for (const host of hosts) {
      expect(host.sandboxes.size).toBe(roomPerHost);
      expect(await takenOfHost(databases[0].db, host.id)).toMatchObject({ running: roomPerHost });
    }
    expect(await listUnsettled(databases[0].db)).toEqual([]);
  });

  test("a quota is not exceeded either", { timeout: 60_000 }, async () => {
    await databases[0].db.deleteFrom("sandbox").execute();
    for (const host of hosts) host.sandboxes.clear();
    await databases[0].db.updateTable("team").set({ quota: '{"sandboxes": 7}' }).where("id", "=", firstTeam).execute();
    const outcomes = await Promise.allSettled(
      Array.from({ length: 50 }, async (_, index) => planes[index % 2 === 0 ? 0 : 1].create(firstTeam, body, signal)),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(7);
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "quota_exceeded" });
    await databases[0].db.updateTable("team").set({ quota: "{}" }).where("id", "=", firstTeam).execute();
  });

  test("of many requests with one key on two control planes one is done", { timeout: 60_000 }, async () => {
    await databases[0].db.deleteFrom("sandbox").execute();
    for (const host of hosts) host.sandboxes.clear();
    const request = { teamId: firstTeam, endpoint: "createSandbox", key: { key: "k", requestHash: Buffer.alloc(32) } };
    const outcomes = await Promise.allSettled(
      Array.from({ length: 40 }, async (_, index) => planes[index % 2 === 0 ? 0 : 1].create(firstTeam, body, signal, undefined, request)),
    );
    expect(outcomes.filter(({ status }) => status === "fulfilled")).toHaveLength(1);
    for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toBeInstanceOf(KeyTaken);
    const { count } = await databases[0].db
      .selectFrom("sandbox")
      .select((row) => row.fn.countAll<number>().as("count"))
      .executeTakeFirstOrThrow();
    expect(count).toBe(1);
  });

  test("an operation that nobody works at is taken over by one", { timeout: 60_000 }, async () => {
    const { db } = databases[0];
    await db
      .updateTable("operation")
      .set({ state: "running", time_ended: null, failure: null, claimed_by: "dead", time_claim_ends: new Date(0) })
      .where("idempotency_key", "=", "k")
      .execute();
    const taken = await Promise.all([0, 1, 0, 1, 0, 1].map(async (index) => planes[index === 0 ? 0 : 1].operations.takeOver()));
    expect(taken.flat()).toHaveLength(1);
  });
});
