import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import type { RoostError } from "./errors.ts";
import { FakeApi, FakeError } from "./testing/fake-api.ts";

/** Pause, resume, generations, fork, snapshots and events as a program uses them. */

let api: FakeApi;
let roost: RoostClient;
beforeEach(async () => {
  api = await FakeApi.start();
  roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
});
afterEach(() => api[Symbol.asyncDispose]());

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => "none",
    (error: unknown) => (error as RoostError).code,
  );

test("pauses and resumes, by the list of sandboxes and by a handle", async () => {
  const { id } = await roost.sandboxes.create();
  expect(await roost.sandboxes.pause(id)).toMatchObject({ state: "paused", has_memory: true, current_generation: 1 });
  expect(await codeOf(roost.sandbox(id).exec("true"))).toBe("sandbox_wrong_state");
  expect(await roost.sandboxes.resume(id, { timeout_sec: 5 })).toMatchObject({ state: "running", timeout_sec: 5, start_path: "restore" });
  expect(await roost.sandbox(id).pause({ memory: false })).toMatchObject({ has_memory: false });
  expect(await roost.sandbox(id).resume({ memory: false })).toMatchObject({ start_path: "boot" });
});

test("with auto_resume using it is enough", async () => {
  const { id } = await roost.sandboxes.create({ auto_resume: true });
  await roost.sandboxes.pause(id);
  expect(await roost.sandbox(id).exec("echo", { args: ["awake"] })).toMatchObject({ stdout: "awake\n" });
  expect(await roost.sandboxes.get(id)).toMatchObject({ state: "running", auto_resume: true });
});

test("checkpoints are generations to go back to", async () => {
  const { id } = await roost.sandboxes.create({ checkpoint_interval_sec: 60 });
  expect((await roost.sandboxes.checkpoint(id)).generation).toMatchObject({ number: 1, is_current: true });
  await roost.sandbox(id).checkpoint();
  expect((await roost.sandboxes.generations(id)).map(({ number }) => number)).toEqual([2, 1]);
  expect(await roost.sandboxes.rollback(id, 1)).toMatchObject({ current_generation: 1 });
  expect(await codeOf(roost.sandboxes.rollback(id, 9))).toBe("generation_not_found");
});

test("a fork answers for each child", async () => {
  const { id } = await roost.sandboxes.create({ metadata: { a: "b" } });
  api.sandboxes.saving.failingChildren.set(1, new FakeError("capacity_exhausted", "no room"));
  const results = await roost.sandboxes.fork(id, 3, { metadata: { child: "yes" } });
  expect(results).toMatchObject([
    { sandbox: { state: "running", metadata: { child: "yes" } } },
    { error: { code: "capacity_exhausted", message: "no room" } },
    { sandbox: { state: "running" } },
  ]);
  expect(await codeOf(roost.sandboxes.fork(id, 101))).toBe("request_invalid");
});

test("snapshots are made, listed, started from and deleted", async () => {
  const { id } = await roost.sandboxes.create();
  expect(await roost.snapshots.create(id, "mine")).toMatchObject({ name: "mine", source_sandbox_id: id, has_memory: true });
  expect(await roost.snapshots.create(id, "disk", { memory: false })).toMatchObject({ has_memory: false, vcpus: null });
  expect((await roost.snapshots.list()).map(({ name }) => name)).toEqual(["disk", "mine"]);
  expect((await roost.templates.list()).map(({ name, kind }) => [name, kind])).toEqual([
    ["base", "base"],
    ["mine", "snapshot"],
    ["disk", "snapshot"],
  ]);
  const started = await roost.sandboxes.create({ template: "mine" });
  expect(await codeOf(roost.snapshots.delete("mine"))).toBe("snapshot_in_use");
  await roost.sandboxes.delete(started.id);
  await roost.snapshots.delete("mine");
  expect(await codeOf(roost.snapshots.get("mine"))).toBe("snapshot_not_found");
  expect(await codeOf(roost.snapshots.create(id, "base"))).toBe("snapshot_exists");
});

test("events come newest first, page after page", async () => {
  for (let index = 0; index < 5; index += 1) {
    api.sandboxes.saving.happen("sandbox.checkpointed", index % 2 === 0 ? "ieven" : "iodd", String(index));
  }
  const messages: string[] = [];
  for await (const event of roost.events.list({ limit: 2 })) messages.push(event.message);
  expect(messages).toEqual(["4", "3", "2", "1", "0"]);
  expect(api.seen.filter((line) => line.startsWith("GET /v1/events"))).toHaveLength(3);
  expect((await roost.events.listPage({ sandboxId: "iodd" })).events.map(({ message }) => message)).toEqual(["3", "1"]);
});
