import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { eachServiceWorld } from "../testing/each-service-world.ts";
import { hostError } from "../testing/fake-host.ts";
import { firstTeam, own } from "../testing/first-team.ts";
import type { ServiceWorld } from "../testing/service-world.ts";
import type { Lifecycle } from "./lifecycle.ts";

/** Pause, resume, checkpoint, roll back; and resuming because somebody needs the guest. */

let world: ServiceWorld;
let lifecycle: Lifecycle;
eachServiceWorld((fresh) => {
  world = fresh;
  ({ lifecycle } = world.sandboxes);
});

const withMemory = { memory: true };

test("a pause is the host's, with its generation; pausing again changes nothing", async () => {
  const { id } = await world.create();
  const paused = await lifecycle.pause(own(id), withMemory);
  expect(paused).toMatchObject({ state: "paused", current_generation: 1, has_memory: true, time_paused: expect.any(Date) });
  expect(world.ended).toContain(id);
  expect(await lifecycle.pause(own(id), withMemory)).toMatchObject({ state: "paused", current_generation: 1 });
  expect(world.host.images.calls.get("pauseSandbox")).toBe(1);
});

test("a resume goes on from memory, or boots when asked to, and may change the timeout", async () => {
  const { id } = await world.create();
  await lifecycle.pause(own(id), withMemory);
  const resumed = await lifecycle.resume(own(id), { memory: true, timeoutSec: 7 });
  expect(resumed).toMatchObject({ state: "running", start_path: "restore", timeout_sec: 7, time_paused: null });
  expect(await lifecycle.resume(own(id), withMemory)).toMatchObject({ state: "running" });
  await lifecycle.pause(own(id), { memory: false });
  expect(await world.sandboxes.get(own(id))).toMatchObject({ has_memory: false });
  expect(await lifecycle.resume(own(id), withMemory)).toMatchObject({ state: "running", start_path: "boot" });
});

test("what ran before a resume is looked for again; after a boot there is nothing to look for", async () => {
  const { id } = await world.create();
  expect(world.resumed).toEqual([]);
  await lifecycle.pause(own(id), withMemory);
  await lifecycle.resume(own(id), withMemory);
  const count = world.resumed.length;
  expect(world.resumed).toContain(id);
  await lifecycle.pause(own(id), { memory: false });
  await lifecycle.resume(own(id), withMemory);
  expect(world.resumed).toHaveLength(count);
});

test("a pause that fails leaves the sandbox running, and its connections alone", async () => {
  const { id } = await world.create();
  world.host.images.failures.set("pauseSandbox", hostError("host_disk_full", "the host's disk is full"));
  await expect(lifecycle.pause(own(id), withMemory)).rejects.toMatchObject({ code: "host_disk_full", message: "the host's disk is full" });
  await world.isState(id, "running");
  expect(world.ended).toEqual([]);
});

test("while a running sandbox is saved its connections stay, and its guest can be used", async () => {
  const { id } = await world.create();
  const release = world.hold("checkpointSandbox");
  const checkpoint = lifecycle.checkpoint(own(id));
  await world.isState(id, "snapshotting");
  expect(await lifecycle.usable(own(id))).toMatchObject({ id });
  release();
  const { row, generation } = await checkpoint;
  expect(row).toMatchObject({ state: "running", current_generation: 1 });
  expect(generation).toMatchObject({ number: 1, kind: "checkpoint", isCurrent: true });
  expect(world.ended).toEqual([]);
});

test("a roll back goes to a kept generation, cuts what was connected, and says which are not kept", async () => {
  const { id } = await world.create();
  await lifecycle.checkpoint(own(id));
  await lifecycle.checkpoint(own(id));
  expect(await lifecycle.rollback(own(id), 1)).toMatchObject({ state: "running", current_generation: 1 });
  expect(world.ended).toContain(id);
  expect((await lifecycle.generations(own(id))).map(({ number, isCurrent }) => [number, isCurrent])).toEqual([
    [2, false],
    [1, true],
  ]);
  await expect(lifecycle.rollback(own(id), 9)).rejects.toMatchObject({ code: "generation_not_found" });
});

test("a sandbox whose VM was lost is back at its generation, and says so", async () => {
  const { id } = await world.create();
  await lifecycle.checkpoint(own(id));
  world.host.change(id, SandboxState.PAUSED, { notice: "the VM ended; it is back at generation 1", timePausedMs: 5n });
  await world.isState(id, "paused");
  expect(await world.sandboxes.get(own(id))).toMatchObject({
    notice: "the VM ended; it is back at generation 1",
    time_paused: new Date(5),
  });
  expect(world.ended).toContain(id);
});

test("a failed sandbox starts from its disk, and only without memory", async () => {
  const { id } = await world.create();
  world.host.change(id, SandboxState.FAILED, { failureReason: "the VM ended" });
  await world.isState(id, "failed");
  await expect(lifecycle.resume(own(id), withMemory)).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /memory=false/ });
  await expect(lifecycle.pause(own(id), withMemory)).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  expect(await lifecycle.resume(own(id), { memory: false })).toMatchObject({ state: "running", failure_reason: null });
});

test("of what has ended nothing is asked of the host; of what is to be deleted neither", async () => {
  const { id } = await world.create();
  const other = await world.create();
  await world.sandboxes.delete(own(id));
  world.host.isUnreachable = true;
  await expect(world.sandboxes.delete(own(other.id))).rejects.toMatchObject({ code: "host_unreachable" });
  for (const gone of [id, other.id]) {
    for (const change of [
      async () => lifecycle.pause(own(gone), withMemory),
      async () => lifecycle.resume(own(gone), withMemory),
      async () => lifecycle.checkpoint(own(gone)),
      async () => lifecycle.rollback(own(gone), 1),
    ]) {
      await expect(change()).rejects.toMatchObject({ code: "sandbox_wrong_state" });
    }
  }
  await expect(lifecycle.generations(own(id))).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  await expect(lifecycle.pause(own("inosuch"), withMemory)).rejects.toMatchObject({ code: "sandbox_not_found" });
});

test("a host that cannot be reached changes nothing of the record", async () => {
  const { id } = await world.create();
  const before = await world.sandboxes.get(own(id));
  world.host.isUnreachable = true;
  const changes = [lifecycle.pause(own(id), withMemory), lifecycle.checkpoint(own(id)), lifecycle.rollback(own(id), 1)];
  await Promise.all(changes.map(async (change) => expect(change).rejects.toMatchObject({ code: "host_unreachable" })));
  expect(await world.sandboxes.get(own(id))).toEqual(before);
});

test("without auto_resume a paused sandbox is not used, and the message says how to resume it", async () => {
  const { id } = await world.create();
  await lifecycle.pause(own(id), withMemory);
  await expect(lifecycle.usable(own(id))).rejects.toMatchObject({
    code: "sandbox_wrong_state",
    message: `sandbox ${id} is paused: resume it with POST /v1/sandboxes/${id}/resume (\`roost resume ${id}\`); one created with auto_resume is resumed by itself`,
  });
  expect(world.host.images.calls.get("resumeSandbox")).toBeUndefined();
});

test("with auto_resume many requests at once cause one resume", async () => {
  const { id } = await world.create({ auto_resume: true });
  await lifecycle.pause(own(id), withMemory);
  const release = world.hold("resumeSandbox");
  const uses = Promise.all(Array.from({ length: 20 }, () => lifecycle.usable(own(id))));
  await world.isState(id, "resuming");
  const late = lifecycle.usable(own(id));
  release();
  for (const row of [...(await uses), await late]) expect(row).toMatchObject({ id, state: "running" });
  expect(world.host.images.calls.get("resumeSandbox")).toBe(1);
  expect(world.host.images.automaticResumes).toBe(1);
});

test("with auto_resume a request waits for a pause under way and then resumes", async () => {
  const { id } = await world.create({ auto_resume: true });
  const release = world.hold("pauseSandbox");
  const pausing = lifecycle.pause(own(id), withMemory);
  await world.isState(id, "pausing");
  const use = lifecycle.usable(own(id));
  release();
  await pausing;
  expect(await use).toMatchObject({ state: "running" });
  expect(world.host.images.automaticResumes).toBe(1);
});

test("with auto_resume a sandbox that was paused without the record knowing is resumed, too", async () => {
  const { id } = await world.create({ auto_resume: true });
  const tell = world.host.tell.bind(world.host);
  world.host.tell = () => undefined; // the watch is late
  world.host.images.pause(id);
  world.host.tell = tell;
  expect(await world.sandboxes.get(own(id))).toMatchObject({ state: "running" });
  expect(await lifecycle.usable(own(id))).toMatchObject({ state: "running", start_path: "restore" });
  expect(world.host.images.automaticResumes).toBe(1);
});

test("using a running sandbox with auto_resume counts as activity first", async () => {
  const { id } = await world.create({ auto_resume: true });
  const plain = await world.create();
  await lifecycle.usable(own(id));
  await lifecycle.usable(own(plain.id));
  expect(world.host.pingCount).toBe(1);
});

test("an automatic resume that fails says why, to everybody who waits, and the next request tries again", async () => {
  const { id } = await world.create({ auto_resume: true });
  await lifecycle.pause(own(id), withMemory);
  world.host.images.failures.set("resumeSandbox", hostError("image_incompatible", "its memory cannot be restored here"));
  const uses = await Promise.allSettled([lifecycle.usable(own(id)), lifecycle.usable(own(id))]);
  for (const use of uses) expect(use).toMatchObject({ status: "rejected", reason: { code: "image_incompatible" } });
  expect(await world.sandboxes.get(own(id))).toMatchObject({ state: "paused" });
  expect(await lifecycle.usable(own(id))).toMatchObject({ state: "running" });
});

test("with auto_resume what has failed or ended is still refused", async () => {
  const { id } = await world.create({ auto_resume: true });
  world.host.change(id, SandboxState.FAILED, { failureReason: "the VM ended" });
  await world.isState(id, "failed");
  await expect(lifecycle.usable(own(id))).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /failure_reason/ });
  await world.sandboxes.delete(own(id));
  await expect(lifecycle.usable(own(id))).rejects.toMatchObject({ code: "sandbox_wrong_state", message: /has ended/ });
});

test(
  "everything at random in parallel: each answer is legal, none hangs, and the records end as the host's (seeded)",
  { timeout: 60_000 },
  async () => {
    const random = new SeededRandom();
    const rows = await Promise.all(Array.from({ length: 4 }, () => world.create({ auto_resume: true })));
    const never = new AbortController().signal;
    const actions: ((id: string) => Promise<unknown>)[] = [
      (id) => lifecycle.pause(own(id), { memory: random.integer(2) === 0 }),
      (id) => lifecycle.resume(own(id), withMemory),
      (id) => lifecycle.checkpoint(own(id)),
      (id) => lifecycle.rollback(own(id), 1 + random.integer(3)),
      (id) => lifecycle.usable(own(id)),
      (id) => lifecycle.generations(own(id)),
      (id) => world.sandboxes.fork(own(id), { count: 1 }, never),
      (id) => (random.integer(10) === 0 ? world.sandboxes.delete(own(id)) : world.sandboxes.getFresh(own(id))),
    ];
    const legal = new Set(["sandbox_wrong_state", "generation_not_found", "sandbox_not_found", "create_aborted"]);
    const outcomes = await Promise.allSettled(
      Array.from({ length: 200 }, async () => {
        await actions[random.integer(actions.length)]?.(rows[random.integer(rows.length)]?.id ?? "");
      }),
    );
    for (const outcome of outcomes) {
      const code = outcome.status === "rejected" ? (outcome.reason as { code?: string }).code : undefined;
      if (outcome.status === "rejected") expect(legal, `SEED=${random.seed}: ${String(outcome.reason)}`).toContain(code);
    }
    for (const row of (await world.sandboxes.list(firstTeam, { limit: 1000 })).sandboxes) {
      const state = world.host.sandboxes.get(row.id)?.state;
      await world.isState(row.id, state === undefined ? "stopped" : (SandboxState[state]?.toLowerCase() ?? "?"));
    }
    for (const [id, sandbox] of world.host.sandboxes) {
      expect([SandboxState.RUNNING, SandboxState.PAUSED], `SEED=${random.seed}`).toContain(sandbox.state);
      expect((await world.sandboxes.get(own(id))).time_delete_requested, `SEED=${random.seed}`).toBeNull();
    }
  },
);
