import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { HostPortLab, plantSandbox, testHeartbeat, type RegisteredHost } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
let host: RegisteredHost;
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "host", "event"] as const) await database.db.deleteFrom(table).execute();
  lab = await HostPortLab.start(database);
  host = await lab.register("rack-1");
});
afterEach(() => lab[Symbol.asyncDispose]());

const get = () => lab.platform.administration.get(host.id);
const told = async () =>
  (await database.db.selectFrom("event").select("kind").where("subject_id", "=", host.id).orderBy("number").execute()).map(
    ({ kind }) => kind,
  );

test("a heartbeat tells what the host is and how it does, and answers what is wanted of it", async () => {
  const beat = testHeartbeat();
  const answer = await lab.beat(host.shown, { health: { is_healthy: false, problems: ["the disk is full"] } });
  expect(answer).toMatchObject({ status: 200, body: { wanted: "ready", lease_sec: 30, heartbeat_sec: 10 } });
  expect(await get()).toMatchObject({
    is_reachable: true,
    description: beat.description,
    load: beat.load,
    health: { is_healthy: false, problems: ["the disk is full"] },
  });
  const row = await database.db
    .selectFrom("host")
    .select(["cpu_count", "memory_mib", "disk_mib"])
    .where("id", "=", host.id)
    .executeTakeFirst();
  expect(row).toEqual({ cpu_count: 8, memory_mib: 16_384, disk_mib: 100_000 });
  await lab.platform.administration.cordon(lab.operator, host.id);
  expect((await lab.beat(host.shown)).body.wanted).toBe("cordoned");
  await lab.platform.administration.drain(lab.operator, host.id, "pause");
  expect((await lab.beat(host.shown)).body.wanted).toBe("draining");
});

test("a clock that is wrong is seen", async () => {
  await lab.beat(host.shown, { time: new Date(Date.now() + 3_600_000).toISOString() });
  const offset = (await get()).clock_offset_ms ?? 0;
  expect(Math.abs(offset - 3_600_000)).toBeLessThan(60_000);
});

test("heartbeats that make no sense are refused and change nothing", async () => {
  await lab.beat(host.shown);
  const before = await get();
  const { load, description } = testHeartbeat();
  for (const wrong of [
    { time: "now" },
    { address: "nowhere" },
    { load: { ...load, memory_free_mb: -1 } },
    { load: { ...load, cpu_load: Number.NaN } },
    { description: { ...description, cpu_count: 0 } },
    { description: { ...description, vmm: "x".repeat(65) } },
    { health: { is_healthy: true, problems: Array.from({ length: 17 }, () => "x") } },
    { more: true },
  ]) {
    expect((await lab.beat(host.shown, wrong as never)).status).toBe(400);
  }
  expect(await get()).toEqual(before);
});

test("a lease that ends makes the host unreachable and nothing else; a heartbeat takes it back; each is told once", async () => {
  await plantSandbox(database.db, host.id, "i1");
  await lab.beat(host.shown);
  expect(await lab.platform.heartbeats.monitor()).toEqual([]);
  lab.clock.offsetMs += 31_000;
  expect((await get()).is_reachable).toBe(false);
  await lab.platform.directory.refresh();
  expect(lab.platform.hosts.seenState(host.id)).toBe("unreachable");
  expect(await lab.platform.heartbeats.monitor()).toEqual([host.id]);
  expect(await lab.platform.heartbeats.monitor()).toEqual([]);
  const sandbox = await database.db.selectFrom("sandbox").select(["state", "time_lost"]).executeTakeFirst();
  expect(sandbox).toEqual({ state: "creating", time_lost: null });
  expect((await get()).state).toBe("ready");
  expect((await lab.beat(host.shown)).status).toBe(200);
  await lab.beat(host.shown);
  expect((await get()).is_reachable).toBe(true);
  await lab.platform.directory.refresh();
  expect(lab.platform.hosts.seenState(host.id)).toBe("ready");
  expect(await told()).toEqual(["host.registered", "host.unreachable", "host.back"]);
});

test("a host that was only announced is not missed", async () => {
  await lab.platform.administration.create(lab.operator, { name: "rack-2", tags: [], team_id: null });
  lab.clock.offsetMs += 3_600_000;
  expect(await lab.platform.heartbeats.monitor()).toEqual([host.id]);
});

test("a host in this process lives by its answers", async () => {
  const fake = new FakeHost("local", () => 1);
  await using other = await HostPortLab.start(database, { inProcess: [fake] });
  const local = async () => other.platform.administration.get("local");
  expect((await local()).is_reachable).toBe(true);
  other.clock.offsetMs += 31_000;
  expect((await local()).is_reachable).toBe(false);
  const link = other.platform.hosts.get("local");
  await other.platform.heartbeats.beatFor("local", (await link.describe(0)).info);
  expect((await local()).is_reachable).toBe(true);
});
