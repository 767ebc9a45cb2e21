import { createSandboxBodySchema, newSandboxId, vmOverheadMib } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { listUnsettled, takenOfHost } from "../db/reservations.ts";
import type { HostLink } from "../hosts/host-link.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import { hostError } from "../testing/fake-host.ts";
import { Placements } from "./placements.ts";

let world: ServiceWorld;
let database: Database;
let sandboxes: Sandboxes;
const never = () => new AbortController().signal;
const create = (memoryMib = 512, vcpus = 1) =>
  sandboxes.create(firstTeam, createSandboxBodySchema.parse({ vcpus, memory_mb: memoryMib, timeout_sec: 0 }), never());
const setQuota = (quota: object) =>
  database.db
    .updateTable("team")
    .set({ quota: JSON.stringify(quota) })
    .where("id", "=", firstTeam)
    .execute();
const taken = async () => takenOfHost(database.db, "host-1");
const settled = async () => {
  expect(await listUnsettled(database.db)).toEqual([]);
  const held = await database.db.selectFrom("reservation").selectAll().where("held_by", "is not", null).execute();
  expect(held).toEqual([]);
};

eachServiceWorld(async (each, db) => {
  world = each;
  database = db;
  await db.db.deleteFrom("host").execute();
  await setQuota({});
  // room for two of 512 MiB
  world.host.size = { ...world.host.size, memoryLimitMib: 2 * (512 + vmOverheadMib) };
  world.link.forgetDescription();
  sandboxes = new Sandboxes({ database, hosts: world.hosts, roomWaitMs: 0, log: silentLogger, onEnded: () => undefined });
});

test("what does not fit is refused before its host hears of it, and leaves nothing", async () => {
  await create();
  await create();
  await expect(create()).rejects.toMatchObject({ code: "capacity_exhausted", retryAfterSec: 10 });
  expect(world.host.sandboxes.size).toBe(2);
  expect(await sandboxes.operations.list(firstTeam, { limit: 100 })).not.toContainEqual(expect.objectContaining({ state: "running" }));
  expect(await taken()).toMatchObject({ running: 2, memoryMib: 2 * (512 + vmOverheadMib) });
  await settled();
});

test("a host that does not answer keeps nobody from the others", async () => {
  const placements = new Placements({ database, hosts: world.hosts, cpuOvercommit: 64, roomWaitMs: 0, now: () => new Date() });
  const hung = { id: "host-hung", describe: async () => Promise.reject(new Error("no answer")) } as unknown as HostLink;
  const request = {
    sandboxId: newSandboxId(),
    teamId: firstTeam,
    count: 1,
    vcpus: 1,
    memoryMib: 512,
    tags: [],
    diskMib: 1,
    isQuotaFree: true,
  };
  const holders = [hung, world.link].map((host) => ({ host, template: { has_memory: true } }));
  const { holder } = await placements.place(request, holders, async () => undefined);
  expect(holder.host).toBe(world.link);
  const alone = placements.place(request, holders.slice(0, 1), async () => undefined);
  await expect(alone).rejects.toMatchObject({ code: "host_unreachable", retryAfterSec: 10 });
});

test("what no host could ever hold is refused with that, and not waited for", async () => {
  await expect(create(4096)).rejects.toThrow(/no host that has its template is that large/);
});

test("a pause gives room back, a resume needs it again", async () => {
  const first = await create();
  await create();
  await sandboxes.lifecycle.pause(own(first.id), { memory: true });
  expect(await taken()).toMatchObject({ running: 1, sandboxes: 2 });
  const third = await create();
  await expect(sandboxes.lifecycle.resume(own(first.id), { memory: true })).rejects.toMatchObject({ code: "capacity_exhausted" });
  await settled();
  await sandboxes.delete(own(third.id));
  expect(await sandboxes.lifecycle.resume(own(first.id), { memory: true })).toMatchObject({ state: "running" });
  expect(await taken()).toMatchObject({ running: 2, sandboxes: 2 });
  await settled();
});

test("a resume that its host refuses gives back what it held", async () => {
  const { id } = await create();
  await sandboxes.lifecycle.pause(own(id), { memory: true });
  world.host.images.failures.set("resumeSandbox", hostError("sandbox_resume_failed", "no"));
  await expect(sandboxes.lifecycle.resume(own(id), { memory: true })).rejects.toMatchObject({ code: "sandbox_resume_failed" });
  expect(await taken()).toMatchObject({ running: 0, sandboxes: 1 });
  await settled();
});

test("a create that its host refuses, or that was deleted, gives back what it took", async () => {
  world.host.createFailure = hostError("capacity_exhausted", "full");
  await expect(create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  expect(await taken()).toMatchObject({ sandboxes: 0 });
  const { id } = await create();
  await sandboxes.delete(own(id));
  expect(await taken()).toMatchObject({ sandboxes: 0 });
});

test("children of a fork are reserved together: all of them fit, or none is tried", async () => {
  const { id } = await create();
  await expect(sandboxes.fork(own(id), { count: 2 }, never())).rejects.toMatchObject({ code: "capacity_exhausted" });
  expect(world.host.sandboxes.size).toBe(1);
  expect(await sandboxes.fork(own(id), { count: 1 }, never())).toMatchObject([{ row: { state: "running" } }]);
  await settled();
});

test("who finds no room waits for it, and gets that of who leaves", async () => {
  const patient = new Sandboxes({ database, hosts: world.hosts, roomWaitMs: 20_000, log: silentLogger, onEnded: () => undefined });
  const { id } = await create();
  await create();
  const third = patient.create(firstTeam, createSandboxBodySchema.parse({}), never());
  await patient.delete(own(id));
  expect(await third).toMatchObject({ state: "running" });
});

test("a cordoned host gets none, and one that is other teams' neither", async () => {
  await create();
  await database.db.updateTable("host").set({ state: "cordoned" }).execute();
  await expect(create()).rejects.toMatchObject({ code: "capacity_exhausted" });
  await database.db.updateTable("host").set({ state: "ready", team_id: firstTeam }).execute();
  expect(await create()).toMatchObject({ state: "running" });
});

test.each([
  [{ sandboxes: 1 }, /quota sandboxes is 1, 1 of it are used, and this needs 1 more/],
  [{ vcpus: 1 }, /quota vcpus is 1, 1 of it are used, and this needs 1 more/],
  [{ memory_mb: 1000 }, /quota memory_mb is 1000, 512 of it are used, and this needs 512 more/],
  [{ disk_mb: 3000 }, /quota disk_mb is 3000, \d+ of it are used/],
])("a quota is kept: %o", async (quota, message) => {
  await setQuota(quota);
  await create();
  await expect(create()).rejects.toMatchObject({ code: "quota_exceeded", status: 403 });
  await expect(create()).rejects.toThrow(message);
  expect(world.host.sandboxes.size).toBe(1);
  await settled();
});

test("a quota for what runs lets a paused one be, and keeps it from being resumed", async () => {
  await setQuota({ vcpus: 1 });
  const first = await create();
  await sandboxes.lifecycle.pause(own(first.id), { memory: true });
  const second = await create();
  await expect(sandboxes.lifecycle.resume(own(first.id), { memory: true })).rejects.toMatchObject({ code: "quota_exceeded" });
  await sandboxes.lifecycle.pause(own(second.id), { memory: true });
  expect(await sandboxes.lifecycle.resume(own(first.id), { memory: true })).toMatchObject({ state: "running" });
  await settled();
});

test("a reservation that somebody falsified is put right", async () => {
  const { id } = await create();
  await database.db.updateTable("reservation").set({ memory_mib: 1 }).where("sandbox_id", "=", id).execute();
  expect(await listUnsettled(database.db)).toEqual([id]);
  await sandboxes.recovery.settleAll();
  expect(await listUnsettled(database.db)).toEqual([]);
});
