import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import type { SandboxRow } from "../db/sandboxes.ts";
import { unknownStanding } from "../hosts/host-standing.ts";
import { eachServiceWorld } from "../testing/each-service-world.ts";
import { hostError } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import type { ForkedChild } from "./forks.ts";

let world: ServiceWorld;
let parent: SandboxRow;
eachServiceWorld(async (fresh) => {
  world = fresh;
  parent = await world.create({ metadata: { purpose: "fork" }, timeout_sec: 77, checkpoint_interval_sec: 60, auto_resume: true });
});

const never = new AbortController().signal;
const rowOf = (child: ForkedChild | undefined) => (child !== undefined && "row" in child ? child.row : undefined);
const listed = async () => (await world.sandboxes.list(firstTeam, { limit: 1000 })).sandboxes;

test("children are sandboxes of their own with what the parent has", async () => {
  const children = await world.sandboxes.fork(own(parent.id), { count: 3 }, never);
  const rows = children.map(rowOf);
  expect(rows).toHaveLength(3);
  for (const row of rows) {
    expect(row).toMatchObject({
      state: "running",
      start_path: "restore",
      template: "base",
      vcpus: parent.vcpus,
      memory_mib: parent.memory_mib,
      timeout_sec: 77,
      checkpoint_interval_sec: 60,
      auto_resume: true,
      metadata: { purpose: "fork" },
    });
    expect(world.host.sandboxes.get(row?.id ?? "")?.spec?.accessToken).toBe(row?.access_token);
  }
  expect(new Set([parent, ...rows].map((row) => row?.access_token)).size).toBe(4);
  expect(new Set([parent, ...rows].map((row) => row?.id)).size).toBe(4);
  expect(world.resumed.sort()).toEqual(rows.map((row) => row?.id).sort());
});

test("what its host must have been given is recorded with it, and with its children", async () => {
  world.hosts.setStanding("host-1", { ...unknownStanding, tags: ["ssd"] });
  const tagged = await world.create({ host_tags: ["ssd"] });
  const [child] = await world.sandboxes.fork(own(tagged.id), { count: 1 }, never);
  expect([tagged.host_tags, rowOf(child)?.host_tags]).toEqual([["ssd"], ["ssd"]]);
});

test("metadata can be other than the parent's", async () => {
  const [child] = await world.sandboxes.fork(own(parent.id), { count: 1, metadata: { a: "b" } }, never);
  expect(rowOf(child)?.metadata).toEqual({ a: "b" });
});

test("children are on record before the host has made anything, and what the host shows of them is theirs", async () => {
  const release = world.hold("forkSandbox");
  const forking = world.sandboxes.fork(own(parent.id), { count: 2 }, never);
  await poll({ what: "the fork on the host", timeoutMs: 30_000, intervalMs: 2 }, () => world.host.images.calls.get("forkSandbox"));
  const children = (await listed()).filter((row) => row.id !== parent.id);
  expect(children.map((row) => row.state)).toEqual(["creating", "creating"]);
  for (const row of children) expect(world.sandboxes.isCreating(row.id)).toBe(true);
  release();
  await forking;
  for (const row of children) {
    expect(world.sandboxes.isCreating(row.id)).toBe(false);
    expect(await world.sandboxes.get(own(row.id))).toMatchObject({ state: "running" });
  }
});

test("a child that fails leaves nothing, and the others live", async () => {
  world.host.images.failingChildren.set(1, { code: "capacity_exhausted", message: "no room" });
  world.host.images.failingChildren.set(2, { code: "sandbox_start_failed", message: "did not start" });
  const children = await world.sandboxes.fork(own(parent.id), { count: 4 }, never);
  expect(children.map((child) => ("row" in child ? child.row.state : child.error.code))).toEqual([
    "running",
    "capacity_exhausted",
    "sandbox_start_failed",
    "running",
  ]);
  expect(await listed()).toHaveLength(3);
});

test("a child that its host keeps as failed is on record as that", async () => {
  world.host.images.failingChildren.set(0, { code: "sandbox_start_failed", message: "did not start" });
  const release = world.hold("forkSandbox");
  const forking = world.sandboxes.fork(own(parent.id), { count: 1 }, never);
  const child = await poll({ what: "the child's record", timeoutMs: 30_000, intervalMs: 2 }, async () =>
    (await listed()).find((row) => row.id !== parent.id),
  );
  const kept = world.host.add({ sandboxId: child.id }, SandboxState.FAILED);
  kept.failureReason = "the guest did not answer";
  release();
  expect(await forking).toMatchObject([{ error: { code: "sandbox_start_failed" } }]);
  expect(await world.sandboxes.get(own(child.id))).toMatchObject({ state: "failed", failure_reason: "the guest did not answer" });
});

test.each(["sandbox_wrong_state", "fork_failed", "host_disk_full", "capacity_exhausted"] as const)(
  "%s of the whole leaves no child behind",
  async (code) => {
    world.host.images.failures.set("forkSandbox", hostError(code, "no"));
    await expect(world.sandboxes.fork(own(parent.id), { count: 3 }, never)).rejects.toMatchObject({ code, message: "no" });
    expect(await listed()).toHaveLength(1);
  },
);

test("a fork whose outcome is unknown fails its children, and the reconciler ends what came of it", async () => {
  const unreachable = hostError("host_unreachable", "gone");
  world.host.images.failures.set("forkSandbox", unreachable);
  const original = world.link.getSandbox.bind(world.link);
  world.link.getSandbox = async () => {
    throw unreachable;
  };
  await expect(world.sandboxes.fork(own(parent.id), { count: 2 }, never)).rejects.toMatchObject({ code: "host_unreachable" });
  world.link.getSandbox = original;
  const children = (await listed()).filter((row) => row.id !== parent.id);
  expect(children).toMatchObject([
    { state: "failed", time_delete_requested: expect.any(Date) },
    { state: "failed", time_delete_requested: expect.any(Date) },
  ]);
});

test("a child that is deleted while it is made is gone", async () => {
  const release = world.hold("forkSandbox");
  const forking = world.sandboxes.fork(own(parent.id), { count: 2 }, never);
  const child = await poll({ what: "the child's record", timeoutMs: 30_000, intervalMs: 2 }, async () =>
    (await listed()).find((row) => row.id !== parent.id),
  );
  await world.sandboxes.delete(own(child.id));
  release();
  const outcomes = (await forking).map((each) => ("row" in each ? "running" : each.error.code)).sort();
  expect(outcomes).toEqual(["create_aborted", "running"]);
  expect(world.host.sandboxes.has(child.id)).toBe(false);
});

test("a caller who goes away undoes the fork, and leaves the parent alone", async () => {
  const gone = new AbortController();
  const release = world.hold("forkSandbox");
  const forking = world.sandboxes.fork(own(parent.id), { count: 3 }, gone.signal);
  await poll({ what: "the fork on the host", timeoutMs: 30_000, intervalMs: 2 }, () => world.host.images.calls.get("forkSandbox"));
  gone.abort();
  await poll({ what: "the end of the children", timeoutMs: 30_000, intervalMs: 2 }, async () =>
    (await listed()).length === 1 ? true : undefined,
  );
  release();
  expect((await forking).map((child) => "error" in child && child.error.code)).toEqual(Array(3).fill("create_aborted"));
  expect([...world.host.sandboxes.keys()]).toEqual([parent.id]);
});

test("an ended parent has no children, and while draining nobody has", async () => {
  await world.sandboxes.delete(own(parent.id));
  await expect(world.sandboxes.fork(own(parent.id), { count: 1 }, never)).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  await expect(world.sandboxes.fork(own("inosuch"), { count: 1 }, never)).rejects.toMatchObject({ code: "sandbox_not_found" });
  world.sandboxes.drain();
  await expect(world.sandboxes.fork(own(parent.id), { count: 1 }, never)).rejects.toMatchObject({ code: "shutting_down" });
});

test("a paused parent stays paused", async () => {
  await world.sandboxes.lifecycle.pause(own(parent.id), { memory: true });
  const [child] = await world.sandboxes.fork(own(parent.id), { count: 1 }, never);
  expect(rowOf(child)).toMatchObject({ state: "running" });
  expect(await world.sandboxes.get(own(parent.id))).toMatchObject({ state: "paused" });
});
