import { silentLogger } from "@roost/kit";
import { expect, test } from "vitest";

import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { FakeHost, hostError } from "../testing/fake-host.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import { Snapshots } from "./snapshots.ts";

let world: ServiceWorld;
let snapshots: Snapshots;
eachServiceWorld((fresh) => {
  world = fresh;
  snapshots = new Snapshots({ records: world.sandboxes.records, hosts: world.hosts, log: silentLogger, hasNameOfBuilt: async () => false });
});

const bodyOf = (sandboxId: string, name = "mine", memory = true) => ({ sandbox_id: sandboxId, name, memory });

test("a snapshot can be seen and started from at once, in its size", async () => {
  const { id } = await world.create({ vcpus: 2, memory_mb: 1024 });
  const made = await snapshots.create(bodyOf(id));
  expect(made).toMatchObject({ name: "mine", source_sandbox_id: id, has_memory: true, vcpus: 2, memory_mb: 1024, disk_mb: 2048 });
  expect(await snapshots.list()).toEqual([made]);
  expect(await snapshots.get("mine")).toEqual(made);
  const started = await world.create({ template: "mine" });
  expect(started).toMatchObject({ template: "mine", vcpus: 2, memory_mib: 1024, start_path: "restore" });
  expect(world.resumed).toEqual([started.id]);
});

test("another size is refused with what it has, and leaves no record", async () => {
  const { id } = await world.create();
  await snapshots.create(bodyOf(id));
  await expect(world.create({ template: "mine", memory_mb: 1024 })).rejects.toMatchObject({
    code: "template_size_fixed",
    message: /1 vCPU and 512 MiB/,
  });
  expect((await world.sandboxes.list({ limit: 10 })).sandboxes).toHaveLength(1);
});

test("a snapshot of the disk alone has no size of its own", async () => {
  const { id } = await world.create();
  expect(await snapshots.create(bodyOf(id, "disk", false))).toMatchObject({ has_memory: false, vcpus: null, memory_mb: null });
  expect(await world.create({ template: "disk", memory_mb: 1024 })).toMatchObject({ memory_mib: 1024, start_path: "boot" });
});

test("a name that is taken is refused and says by what, before the host is asked", async () => {
  const { id } = await world.create();
  await snapshots.create(bodyOf(id));
  await expect(snapshots.create(bodyOf(id))).rejects.toMatchObject({ code: "snapshot_exists", message: /already/ });
  await expect(snapshots.create(bodyOf(id, "base"))).rejects.toMatchObject({ code: "snapshot_exists", message: /base template/ });
  expect(world.host.images.calls.get("createTemplate")).toBe(1);
});

test("of two that want a name at once one gets it", async () => {
  const { id } = await world.create();
  const other = await world.create();
  const outcomes = await Promise.allSettled([snapshots.create(bodyOf(id)), snapshots.create(bodyOf(other.id))]);
  expect(outcomes.map(({ status }) => status).sort()).toEqual(["fulfilled", "rejected"]);
  for (const outcome of outcomes) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "snapshot_exists" });
});

test("deleting one that is in use is refused with who uses it", async () => {
  const { id } = await world.create();
  await snapshots.create(bodyOf(id));
  const user = await world.create({ template: "mine" });
  await expect(snapshots.delete("mine")).rejects.toMatchObject({ code: "snapshot_in_use", message: expect.stringContaining(user.id) });
  await world.sandboxes.delete(user.id);
  await snapshots.delete("mine");
  expect(await snapshots.list()).toEqual([]);
  await expect(snapshots.delete("mine")).rejects.toMatchObject({ code: "snapshot_not_found" });
  await expect(world.create({ template: "mine" })).rejects.toMatchObject({ code: "template_not_found" });
});

test("a base template is no snapshot", async () => {
  await expect(snapshots.get("base")).rejects.toMatchObject({ code: "snapshot_not_found", message: /base template/ });
  await expect(snapshots.delete("base")).rejects.toMatchObject({ code: "snapshot_not_found" });
  expect(world.host.images.templates.has("base")).toBe(true);
});

test("what fails says why and makes nothing", async () => {
  const { id } = await world.create();
  world.host.images.failures.set("createTemplate", hostError("host_disk_full", "the host's disk is full"));
  await expect(snapshots.create(bodyOf(id))).rejects.toMatchObject({ code: "host_disk_full" });
  expect(await snapshots.list()).toEqual([]);
  await world.sandboxes.delete(id);
  await expect(snapshots.create(bodyOf(id))).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  await expect(snapshots.create(bodyOf("inosuch"))).rejects.toMatchObject({ code: "sandbox_not_found" });
});

test("a host that is away is left out of the list, but an empty list is not made of silence", async () => {
  const { id } = await world.create();
  await snapshots.create(bodyOf(id));
  const away = new FakeHost("host-2", () => 1);
  away.images.failures.set("listTemplates", hostError("host_unreachable", "gone"));
  const both = new Snapshots({
    records: world.sandboxes.records,
    hosts: new Hosts([world.link, new HostLink(away, silentLogger)]),
    hasNameOfBuilt: async () => false,
    log: silentLogger,
  });
  expect(await both.list()).toMatchObject([{ name: "mine" }]);
  world.host.images.failures.set("listTemplates", hostError("host_unreachable", "gone"));
  away.images.failures.set("listTemplates", hostError("host_unreachable", "gone"));
  await expect(both.list()).rejects.toMatchObject({ code: "host_unreachable" });
});
