import { tmpdir } from "node:os";
import { join } from "node:path";

import { create } from "@bufbuild/protobuf";
import { TemplateSchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { hour, minute, silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import type { Database } from "../db/database.ts";
import { BuildFiles } from "../templates/build-files.ts";
import { TemplateUpkeep } from "../templates/template-upkeep.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { hostError } from "../testing/fake-host.ts";
import { firstCaller, firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import { Snapshots } from "./snapshots.ts";

let world: ServiceWorld;
let snapshots: Snapshots;
let database: Database;
let upkeepAt: (afterMs: number) => TemplateUpkeep;
eachServiceWorld((fresh, shared) => {
  world = fresh;
  database = shared;
  const { hosts } = world;
  const { records } = world.sandboxes;
  snapshots = new Snapshots({ database, records, hosts, log: silentLogger, onRemoval: () => undefined });
  const files = new BuildFiles({ folder: join(tmpdir(), "roost-none"), bytesMax: 1, log: silentLogger });
  upkeepAt = (afterMs) =>
    new TemplateUpkeep({ db: database.db, hosts, files, log: silentLogger, now: () => new Date(Date.now() + afterMs) });
});

/** What hosts have of snapshots. */
const onHost = () => [...world.host.images.templates.values()].filter(({ kind }) => kind === "snapshot").map(({ name }) => name);

const bodyOf = (sandboxId: string, name = "mine", memory = true) => ({ sandbox_id: sandboxId, name, memory });

test("a snapshot can be seen and started from at once, in its size", async () => {
  const { id } = await world.create({ vcpus: 2, memory_mb: 1024 });
  const made = await snapshots.create(firstCaller, bodyOf(id));
  expect(made).toMatchObject({ name: "mine", source_sandbox_id: id, has_memory: true, vcpus: 2, memory_mb: 1024, disk_mb: 2048 });
  expect(await snapshots.list(firstTeam)).toEqual([made]);
  expect(await snapshots.get(firstTeam, "mine")).toEqual(made);
  const started = await world.create({ template: "mine" });
  expect(started).toMatchObject({ template: "mine", vcpus: 2, memory_mib: 1024, start_path: "restore" });
  expect(world.resumed).toEqual([started.id]);
});

test("another size is refused with what it has, and leaves no record", async () => {
  const { id } = await world.create();
  await snapshots.create(firstCaller, bodyOf(id));
  await expect(world.create({ template: "mine", memory_mb: 1024 })).rejects.toMatchObject({
    code: "template_size_fixed",
    message: /"mine".* vcpus 1 and memory_mb 512/,
  });
  expect((await world.sandboxes.list(firstTeam, { limit: 10 })).sandboxes).toHaveLength(1);
});

test("a snapshot of the disk alone has no size of its own", async () => {
  const { id } = await world.create();
  expect(await snapshots.create(firstCaller, bodyOf(id, "disk", false))).toMatchObject({ has_memory: false, vcpus: null, memory_mb: null });
  expect(await world.create({ template: "disk", memory_mb: 1024 })).toMatchObject({ memory_mib: 1024, start_path: "boot" });
});

test("a name that is taken is refused and says by what, before the host is asked", async () => {
  const { id } = await world.create();
  await snapshots.create(firstCaller, bodyOf(id));
  await expect(snapshots.create(firstCaller, bodyOf(id))).rejects.toMatchObject({ code: "snapshot_exists", message: /already/ });
  await expect(snapshots.create(firstCaller, bodyOf(id, "base"))).rejects.toMatchObject({
    code: "snapshot_exists",
    message: /base template/,
  });
  expect(world.host.images.calls.get("createTemplate")).toBe(1);
});

test("of two that want a name at once one gets it", async () => {
  const { id } = await world.create();
  const other = await world.create();
  const outcomes = await Promise.allSettled([snapshots.create(firstCaller, bodyOf(id)), snapshots.create(firstCaller, bodyOf(other.id))]);
  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "snapshot_exists" });
});

test("deleting one that is in use is refused with who uses it", async () => {
  const { id } = await world.create();
  await snapshots.create(firstCaller, bodyOf(id));
  const user = await world.create({ template: "mine" });
  await expect(snapshots.delete(firstCaller, "mine")).rejects.toMatchObject({
    code: "snapshot_in_use",
    message: expect.stringContaining(user.id),
  });
  await world.sandboxes.delete(own(user.id));
  await snapshots.delete(firstCaller, "mine");
  expect(await snapshots.list(firstTeam)).toEqual([]);
  await expect(snapshots.delete(firstCaller, "mine")).rejects.toMatchObject({ code: "snapshot_not_found" });
  await expect(world.create({ template: "mine" })).rejects.toMatchObject({ code: "template_not_found" });
});

test("a base template is no snapshot", async () => {
  await expect(snapshots.get(firstTeam, "base")).rejects.toMatchObject({ code: "snapshot_not_found", message: /base template/ });
  await expect(snapshots.delete(firstCaller, "base")).rejects.toMatchObject({ code: "snapshot_not_found" });
  expect(world.host.images.templates.has("base")).toBe(true);
});

test("what fails says why and makes nothing", async () => {
  const { id } = await world.create();
  world.host.images.failures.set("createTemplate", hostError("host_disk_full", "the host's disk is full"));
  await expect(snapshots.create(firstCaller, bodyOf(id))).rejects.toMatchObject({ code: "host_disk_full" });
  expect(await snapshots.list(firstTeam)).toEqual([]);
  await world.sandboxes.delete(own(id));
  await expect(snapshots.create(firstCaller, bodyOf(id))).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  await expect(snapshots.create(firstCaller, bodyOf("inosuch"))).rejects.toMatchObject({ code: "sandbox_not_found" });
});

test("its host knows it by another name, and deletes it when it can", async () => {
  const { id } = await world.create();
  await snapshots.create(firstCaller, bodyOf(id));
  expect(onHost()).toEqual([expect.stringMatching(/^snapshot-[0-9a-f]{32}$/)]);
  await snapshots.delete(firstCaller, "mine");
  expect(onHost()).toHaveLength(1);
  world.host.images.failures.set("deleteTemplate", hostError("host_unreachable", "gone"));
  await upkeepAt(0).round();
  expect(onHost()).toHaveLength(1);
  await upkeepAt(0).round();
  expect(onHost()).toEqual([]);
});

test("one that is replaced stays until the new one is there, and goes with the next round", async () => {
  const { id } = await world.create();
  const first = await snapshots.create(firstCaller, bodyOf(id));
  world.host.images.failures.set("createTemplate", hostError("host_disk_full", "the host's disk is full"));
  await expect(snapshots.create(firstCaller, bodyOf(id), { replace: true })).rejects.toMatchObject({ code: "host_disk_full" });
  expect(await snapshots.get(firstTeam, "mine")).toEqual(first);
  await snapshots.create(firstCaller, bodyOf(id, "mine", false), { replace: true });
  expect(await snapshots.list(firstTeam)).toMatchObject([{ name: "mine", has_memory: false }]);
  expect(onHost()).toHaveLength(2);
  await upkeepAt(0).round();
  expect(onHost()).toHaveLength(1);
  expect(await world.create({ template: "mine" })).toMatchObject({ start_path: "boot" });
});

test("a host that makes one although nobody waits for it any more, loses it; its name is free at once", async () => {
  const { id } = await world.create();
  world.host.images.failures.set("createTemplate", hostError("host_unreachable", "gone"));
  await expect(snapshots.create(firstCaller, bodyOf(id))).rejects.toMatchObject({ code: "host_unreachable" });
  const { host_template: late } = await database.db.selectFrom("snapshot").select("host_template").executeTakeFirstOrThrow();
  world.host.images.templates.set(late, create(TemplateSchema, { name: late, kind: "snapshot" }));
  await snapshots.create(firstCaller, bodyOf(id));
  await upkeepAt(0).round();
  expect(onHost()).toHaveLength(2); // it may be making it still
  await upkeepAt(2 * hour).round();
  expect(onHost()).toHaveLength(1);
  expect(onHost()).not.toContain(late);
  expect(await world.create({ template: "mine" })).toMatchObject({ template: "mine" });
});

test("the name of one whose control plane ended while it was made is free when its maker would have given up", async () => {
  const { id } = await world.create();
  const release = world.hold("createTemplate");
  const dead = snapshots.create(firstCaller, bodyOf(id)).catch(() => undefined);
  await expect.poll(() => world.host.images.calls.get("createTemplate"), { timeout: 30_000 }).toBe(1);
  await expect(snapshots.create(firstCaller, bodyOf(id))).rejects.toMatchObject({ code: "snapshot_exists" });
  const later = new Snapshots({
    database,
    records: world.sandboxes.records,
    hosts: world.hosts,
    log: silentLogger,
    onRemoval: () => undefined,
    now: () => new Date(Date.now() + 30 * minute),
  });
  release();
  await dead;
  await database.db.updateTable("snapshot").set({ state: "creating" }).execute();
  expect(await later.create(firstCaller, bodyOf(id))).toMatchObject({ name: "mine" });
});

test("what hosts have from before there were records becomes the first team's, once, and not what is deleted", async () => {
  const template = { kind: "snapshot", digest: `sha256:${"7".repeat(64)}`, diskSizeMib: 9, sourceSandboxId: "iold", sizeBytes: 5n };
  const put = (name: string) =>
    world.host.images.templates.set(name, create(TemplateSchema, { ...template, name, timeCreatedMs: BigInt(Date.now()) }));
  put("Old:v1");
  put(`snapshot-${"0".repeat(32)}`); // somebody else's matter
  world.link.forgetDescription();
  await expect(world.create({ template: "Old:v1" })).rejects.toMatchObject({ code: "template_not_found" });
  await upkeepAt(0).round();
  await upkeepAt(0).round();
  expect(await snapshots.list(firstTeam)).toMatchObject([{ name: "Old:v1", source_sandbox_id: "iold", disk_mb: 9, size_bytes: 5 }]);
  expect(await world.create({ template: "Old:v1" })).toMatchObject({ template: "Old:v1" });
  await database.db.deleteFrom("sandbox").execute();
  world.host.sandboxes.clear();
  world.host.images.failures.set("deleteTemplate", hostError("snapshot_in_use", "used by somebody"));
  await snapshots.delete(firstCaller, "Old:v1");
  await upkeepAt(0).round();
  expect(onHost()).toContain("Old:v1");
  expect(await snapshots.list(firstTeam)).toEqual([]);
  await upkeepAt(0).round();
  expect(onHost()).not.toContain("Old:v1");
});

test("size and digest follow what its host makes of it", async () => {
  const { id } = await world.create();
  const made = await snapshots.create(firstCaller, bodyOf(id));
  const template = [...world.host.images.templates.values()].find(({ kind }) => kind === "snapshot");
  Object.assign(template ?? {}, { digest: `sha256:${"8".repeat(64)}`, sizeBytes: 77n });
  await upkeepAt(0).round();
  expect(await snapshots.get(firstTeam, "mine")).toEqual({ ...made, digest: `sha256:${"8".repeat(64)}`, size_bytes: 77 });
});

test("making and deleting one is told as an event of its team, by its name", async () => {
  const { id } = await world.create();
  await database.db.deleteFrom("event").execute();
  await snapshots.create(firstCaller, bodyOf(id));
  await snapshots.delete(firstCaller, "mine");
  const told = await database.db.selectFrom("event").select(["kind", "team_id", "template", "sandbox_id"]).orderBy("number").execute();
  expect(told).toEqual([
    { kind: "snapshot.created", team_id: firstTeam, template: "mine", sandbox_id: id },
    { kind: "snapshot.deleted", team_id: firstTeam, template: "mine", sandbox_id: null },
  ]);
});
