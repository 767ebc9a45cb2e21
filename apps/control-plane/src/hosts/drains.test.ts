import { SandboxState as WireState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { silentLogger } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { FakeHost } from "../testing/fake-host.ts";
import { HostPortLab, plantSandbox } from "../testing/host-port-lab.ts";
import { openTestDatabase } from "../testing/test-database.ts";
import { Drains } from "./drains.ts";

/** A first database takes PGlite long on a busy machine */
const databaseTimeoutMs = 60_000;
let database: Database;
let lab: HostPortLab;
let fake: FakeHost;
beforeAll(async () => {
  database = await openTestDatabase();
}, databaseTimeoutMs);
afterAll(() => database.close());
beforeEach(async () => {
  for (const table of ["sandbox", "host", "event"] as const) await database.db.deleteFrom(table).execute();
  fake = new FakeHost("local", () => 1);
  lab = await HostPortLab.start(database, { inProcess: [fake] });
});
afterEach(() => lab[Symbol.asyncDispose]());

const never = new AbortController().signal;
const host = async () => lab.platform.administration.get("local");
const states = () => [...fake.sandboxes.values()].map(({ state }) => state);

async function run(count: number): Promise<void> {
  for (let index = 0; index < count; index += 1) {
    fake.add({ sandboxId: `i${index}` });
    await plantSandbox(database.db, "local", `i${index}`, "running");
  }
}

/** What a watch would have recorded. */
async function observe(): Promise<void> {
  for (const [id, { state }] of fake.sandboxes) {
    if (state === WireState.PAUSED) await database.db.updateTable("sandbox").set({ state: "paused" }).where("id", "=", id).execute();
  }
}

async function round(drains = lab.platform.drains): Promise<void> {
  const row = await database.db.selectFrom("host").selectAll().where("id", "=", "local").executeTakeFirstOrThrow();
  await drains.drainOnce(row, never);
  await observe();
}

test("what runs is paused, the host is done when nothing runs, and that is told once", async () => {
  await run(7);
  const asked = await lab.platform.administration.drain(lab.operator, "local", "pause");
  expect(asked).toMatchObject({ state: "draining", drain: { mode: "pause", time_done: null } });
  await round();
  expect(states()).toEqual(Array.from({ length: 7 }, () => WireState.PAUSED));
  await round();
  await round();
  expect((await host()).drain?.time_done).not.toBeNull();
  const told = await database.db.selectFrom("event").select("kind").where("kind", "=", "host.drained").execute();
  expect(told).toHaveLength(1);
  expect(await lab.platform.administration.uncordon(lab.operator, "local")).toMatchObject({ state: "ready", drain: null });
});

test("in the other mode nothing is paused, and the drain is done when the last one is gone", async () => {
  await run(1);
  await lab.platform.administration.drain(lab.operator, "local", "wait");
  await round();
  expect(states()).toEqual([WireState.RUNNING]);
  expect((await host()).drain?.time_done).toBeNull();
  await database.db.updateTable("sandbox").set({ state: "paused" }).execute();
  await round();
  expect((await host()).drain?.time_done).not.toBeNull();
});

test("sandboxes of builds are left to end; one that cannot be paused is said, and tried again", async () => {
  await run(2);
  await database.db.updateTable("sandbox").set({ for_build_id: "00000000-0000-4000-8000-000000000001" }).where("id", "=", "i0").execute();
  await lab.platform.administration.drain(lab.operator, "local", "pause");
  fake.isUnreachable = true;
  await round();
  expect((await host()).drain?.problem).toContain("sandbox i1");
  fake.isUnreachable = false;
  await round();
  expect(states()).toEqual([WireState.RUNNING, WireState.PAUSED]);
  expect((await host()).drain).toMatchObject({ problem: null, time_done: null });
});

test("a drain that is called off pauses nothing more", async () => {
  await run(3);
  await lab.platform.administration.drain(lab.operator, "local", "pause");
  const row = await database.db.selectFrom("host").selectAll().where("id", "=", "local").executeTakeFirstOrThrow();
  await lab.platform.administration.uncordon(lab.operator, "local");
  await lab.platform.drains.drainOnce(row, never);
  expect(states()).toEqual([WireState.RUNNING, WireState.RUNNING, WireState.RUNNING]);
});

test("a control plane that ends leaves its drain to another one, after its claim", async () => {
  await run(1);
  await lab.platform.administration.drain(lab.operator, "local", "pause");
  const parts = { db: database.db, hosts: lab.platform.hosts, log: silentLogger, now: () => new Date(Date.now() + lab.clock.offsetMs) };
  const [dead, next] = [new Drains(parts), new Drains(parts)];
  let release = () => {};
  fake.images.gates.set("pauseSandbox", new Promise((resolve) => (release = resolve)));
  const abort = new AbortController();
  await dead.round(abort.signal);
  abort.abort();
  fake.images.gates.delete("pauseSandbox");
  release();
  const claim = async () => (await database.db.selectFrom("host").select("drain_claimed_by").executeTakeFirst())?.drain_claimed_by;
  const first = await claim();
  await next.round(never);
  expect(await claim()).toBe(first);
  lab.clock.offsetMs += 31_000;
  await next.round(never);
  expect(await claim()).not.toBe(first);
  await expect.poll(() => states(), { timeout: 10_000 }).toEqual([WireState.PAUSED]);
});

test("nothing is placed on, or resumed on, a host that is being drained; a cordoned one resumes", async () => {
  const { hosts, administration, directory } = lab.platform;
  expect((await hosts.placeBase("base", "default")).map(({ host: { id } }) => id)).toEqual(["local"]);
  await administration.cordon(lab.operator, "local");
  await directory.refresh();
  await expect(hosts.placeBase("base", "default")).rejects.toThrow("takes new sandboxes right now");
  expect(hosts.getForResume("local").id).toBe("local");
  await administration.drain(lab.operator, "local", "pause");
  await directory.refresh();
  expect(() => hosts.getForResume("local")).toThrow(expect.objectContaining({ code: "host_draining" }) as Error);
});
