import { metricsRanges, type SandboxState } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { insertSandbox } from "../db/sandboxes.ts";
import type { HostLink } from "../hosts/host-link.ts";
import { plainSandbox } from "../testing/plain-sandbox.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { MetricStore } from "./metric-store.ts";

let database: Database;
beforeAll(async () => {
  database = await openTestDatabase();
}, 60_000);
afterAll(async () => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "sandbox_metric", "sandbox_metric_mark", "sandbox_interval"] as const)
    await database.db.deleteFrom(table).execute();
});

const start = 1_772_323_200; // a multiple of 600

/** A host that measures each s: its CPU percent is the second's place in its minute. */
class MeasuringHost {
  readonly asked: { readonly sandboxId: string; readonly range: string; readonly asKnown: boolean }[] = [];
  nowSec = start;
  /** The ring begins anew with the host agent */
  sinceSec = start;
  isDown = false;
  readonly link = {
    id: "host-1",
    isWatching: true,
    call: async (rpc: () => Promise<unknown>) => rpc(),
    client: {
      getMetrics: async (request: { sandboxId: string; range: string; asKnown: boolean }) => {
        this.asked.push(request);
        if (this.isDown) throw new Error("the host is down");
        const from = Math.max(this.sinceSec, request.range === "all" ? 0 : this.nowSec - metricsRanges["10m"]);
        const points = Array.from({ length: Math.max(0, this.nowSec - from) }, (_, index) => from + index).map((sec) => ({
          timeUnixSec: BigInt(sec),
          cpuPercent: sec % 60,
          memoryBytes: 1_000n,
          memoryCacheBytes: 10n,
          diskBytes: 5n,
        }));
        return { points, memoryTotalBytes: 4_000n, diskTotalBytes: 50n };
      },
    },
  } as unknown as HostLink;
}

function storeOf(host: MeasuringHost): MetricStore {
  return new MetricStore({ db: database.db, hosts: () => [host.link], log: silentLogger, now: () => new Date(host.nowSec * 1_000) });
}

async function insert(id: string): Promise<void> {
  const sizes = { template: "base", vcpus: 1, memoryMib: 512, diskSizeMib: 1, timeoutSec: 0, checkpointIntervalSec: 0 };
  const more = { teamId: "default", templateSnapshotId: null, hostId: "host-1", accessToken: "token", metadata: {}, autoResume: false };
  await insertSandbox(database.db, { ...plainSandbox, ...sizes, ...more, id, timeCreated: new Date(start * 1_000) });
  await set(id, "running");
}

async function set(id: string, state: SandboxState, sec = start): Promise<void> {
  const time = new Date(sec * 1_000);
  await database.db
    .updateTable("sandbox")
    .set({ state, time_state_updated: time, ...(state === "paused" ? { time_paused: time } : { time_started: time }) })
    .where("id", "=", id)
    .execute();
}

test("three tiers of averages, of each instant once, whatever the rounds", async () => {
  const host = new MeasuringHost();
  const store = storeOf(host);
  await insert("i1");
  for (let round = 0; round < 30; round += 1) {
    host.nowSec += 123;
    await store.round();
  }
  const hour = await store.read("i1", 3_600);
  expect(hour.length).toBeGreaterThan(320);
  expect(hour.every(({ timeUnixSec, cpuPercent }) => cpuPercent === (timeUnixSec % 60) + 4.5)).toBe(true);
  expect(new Set(hour.map(({ timeUnixSec }) => timeUnixSec)).size).toBe(hour.length);
  expect(hour[0]).toMatchObject({ memoryBytes: 1_000, cacheBytes: 10, diskBytes: 5, memoryTotalBytes: 4_000, diskTotalBytes: 50 });
  const day = await store.read("i1", 86_400);
  expect(day.slice(0, -1).map(({ cpuPercent }) => cpuPercent)).toEqual(Array.from({ length: day.length - 1 }, () => 29.5));
  const month = await store.read("i1", 30 * 86_400);
  expect(month.map(({ timeUnixSec }) => timeUnixSec)).toEqual(
    Array.from({ length: 7 }, (_, index) => start + index * 600).slice(0, month.length),
  );
  expect(month[0]?.cpuPercent).toBe(29.5);
  // Hosts are asked every five minutes, and never make a guest work for it
  expect(host.asked.length).toBeLessThanOrEqual(13);
  expect(host.asked.every(({ asKnown }) => asKnown)).toBe(true);
});

test("a paused one is asked for once; what it used stays known when its host does not know it any more", async () => {
  const host = new MeasuringHost();
  const store = storeOf(host);
  await insert("i1");
  host.nowSec += 35;
  await set("i1", "paused", host.nowSec);
  await store.round();
  await store.round();
  expect(host.asked).toHaveLength(1);
  expect((await store.read("i1", 600)).map(({ timeUnixSec }) => timeUnixSec - start)).toEqual([0, 10, 20, 30]);
  // Resumed on a host agent that began anew, and paused again
  await set("i1", "running", host.nowSec);
  host.sinceSec = host.nowSec + 100;
  host.nowSec += 110;
  await set("i1", "paused", host.nowSec);
  await store.round();
  expect((await store.read("i1", 600)).map(({ timeUnixSec }) => timeUnixSec - start)).toEqual([0, 10, 20, 30, 130, 140]);
});

test("the last of a sandbox that ends is kept; a host that is down does not keep it from ending", async () => {
  const host = new MeasuringHost();
  const store = storeOf(host);
  await insert("i1");
  host.nowSec += 7;
  await store.collectLast("i1", host.link);
  expect(await store.read("i1", 600)).toMatchObject([{ timeUnixSec: start, cpuPercent: 3 }]);
  host.isDown = true;
  await store.collectLast("i1", host.link);
  expect(await store.read("nobody", 600)).toEqual([]);
});

test("two control planes share the work; one that is late takes nothing from the other", async () => {
  const host = new MeasuringHost();
  const stores = [storeOf(host), storeOf(host)];
  for (let index = 0; index < 20; index += 1) await insert(`i${index}`);
  host.nowSec += 400;
  await Promise.all(stores.map((store) => store.round()));
  expect(host.asked.map(({ sandboxId }) => sandboxId).sort()).toEqual([...new Set(host.asked.map(({ sandboxId }) => sandboxId))].sort());
  expect(host.asked).toHaveLength(20);
});

test("a host that fails is asked again when the claim has ended", async () => {
  const host = new MeasuringHost();
  const store = storeOf(host);
  await insert("i1");
  host.nowSec += 400;
  host.isDown = true;
  await store.round();
  host.isDown = false;
  await store.round();
  expect(host.asked).toHaveLength(1);
  host.nowSec += 61;
  await store.round();
  expect(host.asked).toHaveLength(2);
  expect((await store.read("i1", 600)).length).toBeGreaterThan(40);
});

test("what is older than its tier is forgotten", async () => {
  const host = new MeasuringHost();
  await insert("i1");
  host.nowSec += 600;
  await storeOf(host).round();
  const counts = async () => {
    const rows = await database.db
      .selectFrom("sandbox_metric")
      .select(["step_sec", (row) => row.fn.countAll<number>().as("count")])
      .groupBy("step_sec")
      .orderBy("step_sec")
      .execute();
    return rows.map(({ step_sec, count }) => [step_sec, count]);
  };
  expect(await counts()).toEqual([
    [10, 60],
    [60, 10],
    [600, 1],
  ]);
  await database.db.deleteFrom("sandbox").execute();
  for (const [ageSec, left] of [
    [
      3_600 + 600,
      [
        [60, 10],
        [600, 1],
      ],
    ],
    [86_400 + 600, [[600, 1]]],
    [30 * 86_400 + 600, []],
  ] as const) {
    host.nowSec = start + ageSec;
    await storeOf(host).round();
    expect(await counts()).toEqual(left);
  }
  expect(await database.db.selectFrom("sandbox_metric_mark").selectAll().execute()).toEqual([]);
});
