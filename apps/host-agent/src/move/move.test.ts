import { randomUUID } from "node:crypto";
import { appendFile, chmod, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { carry, type CarryOptions } from "../testing/carry.ts";
import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

let source: FakeHost;
let destination: FakeHost;
beforeEach(async () => {
  [source, destination] = await Promise.all([FakeHost.start(), FakeHost.start()]);
});
afterEach(async () => {
  await source[Symbol.asyncDispose]();
  await destination[Symbol.asyncDispose]();
});

const from = () => source.client;
const to = () => destination.client;

/** A paused sandbox whose guest knows something, with a checkpoint before. */
async function paused(): Promise<string> {
  const spec = aSpec({ envs: { COLOR: "blue" } });
  const { sandboxId } = spec;
  await source.client.createSandbox({ spec });
  must(source.guests.get(sandboxId), "a guest").knowledge = { count: 1 };
  await source.client.checkpointSandbox({ sandboxId });
  must(source.guests.get(sandboxId), "a guest").knowledge = { count: 2 };
  await source.client.pauseSandbox({ sandboxId });
  return sandboxId;
}

async function look(host: FakeHost, sandboxId: string) {
  return must((await host.client.getSandbox({ sandboxId })).sandbox, "a sandbox");
}

async function arrivalFolders(host: FakeHost): Promise<string[]> {
  return readdir(join(host.folder, "state", "arrivals"));
}

async function eventsOf(host: FakeHost): Promise<string[]> {
  const text = await readFile(join(host.folder, "state", "events.ndjson"), "utf8");
  return [...text.matchAll(/"kind":"([^"]+)"/g)].map(([, kind]) => kind ?? "");
}

test("a sandbox goes on where it was moved to: memory, disk, checkpoints and settings; nothing is left where it was", async () => {
  const sandboxId = await paused();
  const before = await look(source, sandboxId);
  await carry(sandboxId, from, to);
  expect(await source.leftovers()).toEqual([]);
  expect(await arrivalFolders(destination)).toEqual([]);
  const after = await look(destination, sandboxId);
  expect(after).toMatchObject({
    state: SandboxState.PAUSED,
    currentGeneration: before.currentGeneration,
    hasMemory: true,
    spec: { envs: { COLOR: "blue" } },
  });
  expect(after.transit).toBeUndefined();
  expect(after.generation).toBeGreaterThan(before.generation);
  expect((await destination.client.resumeSandbox({ sandboxId })).sandbox?.startPath).toBe("restore");
  expect(destination.guests.get(sandboxId)?.knowledge).toEqual({ count: 2 });
  await destination.client.rollbackSandbox({ sandboxId, generation: 1 });
  expect(destination.guests.get(sandboxId)?.knowledge).toEqual({ count: 1 });
  await destination.client.pauseSandbox({ sandboxId });

  await carry(sandboxId, to, from); // and back
  await source.client.resumeSandbox({ sandboxId });
  expect(source.guests.get(sandboxId)?.knowledge).toEqual({ count: 1 });
  expect(await destination.leftovers()).toEqual([]);
});

test("neither host tells that the sandbox ended, also when its agent starts anew", async () => {
  const sandboxId = await paused();
  await carry(sandboxId, from, to);
  for (const host of [source, destination]) {
    await host.endAgent();
    await host.startAgent();
    expect(await eventsOf(host)).not.toContain("sandbox.stopped");
  }
  expect((await eventsOf(destination)).filter((kind) => kind === "sandbox.paused")).toEqual([]);
});

test("one that failed, and one whose disk is newer than its last generation, keep their disks", async () => {
  const lost = aSpec();
  const never = aSpec();
  for (const spec of [lost, never]) await source.client.createSandbox({ spec });
  await source.client.checkpointSandbox({ sandboxId: lost.sandboxId });
  const states = { [lost.sandboxId]: SandboxState.PAUSED, [never.sandboxId]: SandboxState.FAILED };
  for (const [sandboxId, state] of Object.entries(states)) {
    const folder = join(source.folder, "state", "sandboxes", sandboxId, "disk");
    await source.driver.end(sandboxId, { signal: "SIGKILL" });
    await expect.poll(async () => (await look(source, sandboxId)).state, { timeout: 10_000 }).toBe(state);
    const recorded = JSON.parse(await readFile(join(folder, "..", "sandbox.json"), "utf8")) as { layers: string[] };
    const top = must(recorded.layers.at(-1), "a layer");
    await chmod(join(folder, top), 0o644);
    await appendFile(join(folder, top), "written last");
    const layers = await layersOf(source, sandboxId);
    await carry(sandboxId, from, to);
    expect(await layersOf(destination, sandboxId)).toEqual(layers);
    expect((await destination.client.resumeSandbox({ sandboxId, memory: false })).sandbox?.startPath).toBe("boot");
  }
});

async function layersOf(host: FakeHost, sandboxId: string): Promise<string[]> {
  const folder = join(host.folder, "state", "sandboxes", sandboxId, "disk");
  const names = (await readdir(folder)).filter((name) => name.endsWith(".qcow2")).sort();
  return Promise.all(names.map(async (name) => `${name}: ${await readFile(join(folder, name), "utf8")}`));
}

test("while it is moved neither host does anything to it, whoever asks, also after a restart; then each does as it is told", async () => {
  const sandboxId = await paused();
  const moveId = randomUUID();
  await carry(sandboxId, from, to, { moveId, leavesOpen: true });
  for (const host of [source, destination]) {
    for (let restarts = 0; restarts < 2; restarts += 1) {
      expect((await look(host, sandboxId)).transit).toMatchObject({ moveId, arriving: host === destination });
      for (const call of [
        () => host.client.resumeSandbox({ sandboxId }),
        () => host.client.resumeSandbox({ sandboxId, memory: false }),
        () => host.client.rollbackSandbox({ sandboxId, generation: 1 }),
        () => host.client.setTimeout({ sandboxId, timeoutSec: 5 }),
        () => host.client.forkSandbox({ sandboxId, children: [{ sandboxId: aSpec().sandboxId, accessToken: "t" }] }),
        () => host.client.beginDeparture({ sandboxId, moveId: randomUUID() }),
      ])
        expect(await failureOf(call())).toMatchObject({ code: "sandbox_busy" });
      expect((await host.client.pauseSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
      await host.endAgent();
      await host.startAgent();
    }
  }
  // another move's end, late, is nothing to it
  for (const host of [source, destination]) await host.client.endMove({ sandboxId, moveId: randomUUID(), stays: false });
  const { revision } = { revision: (await look(source, sandboxId)).generation };
  await destination.client.endMove({ sandboxId, moveId, stays: false });
  await source.client.endMove({ sandboxId, moveId, stays: true });
  expect(await destination.leftovers()).toEqual([]);
  // sent before the move began, and only now here
  expect(await failureOf(source.client.resumeSandbox({ sandboxId, revision: revision - 1n }))).toMatchObject({ code: "sandbox_changed" });
  await source.client.resumeSandbox({ sandboxId });
  expect(source.guests.get(sandboxId)?.knowledge).toEqual({ count: 2 });
});

test("what runs is not moved; a repeated beginning is answered; one that was deleted meanwhile is gone", async () => {
  const spec = aSpec();
  const { sandboxId } = spec;
  await source.client.createSandbox({ spec });
  const moveId = randomUUID();
  expect(await failureOf(source.client.beginDeparture({ sandboxId, moveId }))).toMatchObject({ code: "sandbox_wrong_state" });
  const { sandbox } = await source.client.pauseSandbox({ sandboxId });
  const revision = must(sandbox, "a sandbox").generation;
  expect(await failureOf(source.client.beginDeparture({ sandboxId, moveId, revision: revision - 1n }))).toMatchObject({
    code: "sandbox_changed",
  });
  const first = await source.client.beginDeparture({ sandboxId, moveId, revision });
  const second = await source.client.beginDeparture({ sandboxId, moveId, revision });
  expect(second.sandbox?.generation).toBe(first.sandbox?.generation);
  await source.client.destroySandbox({ sandboxId });
  expect(await source.leftovers()).toEqual([]);
  expect(await failureOf(source.client.readDeparture({ sandboxId, moveId, file: "disk/l1.qcow2", offset: 0n }))).toMatchObject({
    code: "sandbox_not_found",
  });
});

test.each(["held", "begun", "written", "completed"] as const)(
  "host agents that end after it was %s lose nothing: the move is done again, or undone",
  async (step) => {
    const sandboxId = await paused();
    const moveId = randomUUID();
    const crash = async (at: string) => {
      if (at !== step) return;
      for (const host of [source, destination]) {
        await host.endAgent();
        await host.startAgent();
      }
      throw new Error("both ended");
    };
    await expect(carry(sandboxId, from, to, { moveId, afterStep: crash })).rejects.toThrow("both ended");
    expect(await arrivalFolders(destination)).toEqual([]);
    expect((await look(source, sandboxId)).transit?.moveId).toBe(moveId);
    if (step === "completed") expect((await destination.client.beginArrival({ moveId, sandboxId, parcel: {} })).isComplete).toBe(true);
    else await carry(sandboxId, from, to, { moveId, leavesOpen: true });
    await destination.client.endMove({ sandboxId, moveId, stays: true });
    await source.client.endMove({ sandboxId, moveId, stays: false });
    await destination.client.resumeSandbox({ sandboxId });
    expect(destination.guests.get(sandboxId)?.knowledge).toEqual({ count: 2 });
    expect(await source.leftovers()).toEqual([]);
  },
);

test.each([
  ["arrival:assembled", false],
  ["arrival:adopted", true],
] as const)("a destination that is killed at %s has it or has it not, and the move goes on", async (at, isHere) => {
  const sandboxId = await paused();
  const moveId = randomUUID();
  let reached: () => void = () => undefined;
  const isReached = new Promise<void>((resolve) => (reached = resolve));
  let kills = true;
  await destination[Symbol.asyncDispose]();
  const onStep = (step: string) => {
    if (!kills || step !== at) return undefined;
    reached();
    return new Promise<void>(() => undefined); // nothing of it goes on
  };
  destination = await FakeHost.start({ deps: { onStep } });
  const given = carry(sandboxId, from, to, { moveId, leavesOpen: true });
  given.catch(() => undefined); // its host agent ends
  await isReached;
  kills = false;
  await destination.endAgent();
  await destination.startAgent();
  expect(await arrivalFolders(destination)).toEqual([]);
  const { sandboxes } = await destination.client.listSandboxes({});
  expect(sandboxes.map(({ transit }) => transit?.moveId)).toEqual(isHere ? [moveId] : []);
  if (!isHere) await carry(sandboxId, from, to, { moveId, leavesOpen: true });
  await destination.client.endMove({ sandboxId, moveId, stays: true });
  await source.client.endMove({ sandboxId, moveId, stays: false });
  await destination.client.resumeSandbox({ sandboxId });
  expect(destination.guests.get(sandboxId)?.knowledge).toEqual({ count: 2 });
});

test("images below it come along where the destination has none of the kind, and stay while something lies on them", async () => {
  for (const [file, text] of [
    ["base.raw", "another base"],
    ["agent", "another agent"],
  ] as const) {
    const path = join(destination.folder, "cache", "images", file);
    await rm(path);
    await writeFile(path, text);
  }
  await destination.endAgent();
  const listed = join(destination.folder, "cache", "images", "images.json");
  await writeFile(listed, (await readFile(listed, "utf8")).replaceAll(/"sha256:[0-9a-f]{64}"/g, `"sha256:${"0".repeat(64)}"`));
  await destination.startAgent();
  const sandboxId = await paused();
  const carried = await carry(sandboxId, from, to);
  expect(carried.filter((name) => name.startsWith("image/"))).toHaveLength(2);
  await destination.endAgent();
  await destination.startAgent();
  await destination.client.resumeSandbox({ sandboxId });
  const moved = join(destination.folder, "state", "moved-images");
  expect(await readdir(moved)).toHaveLength(2);
  await destination.client.destroySandbox({ sandboxId });
  await destination.endAgent();
  await destination.startAgent();
  expect(await readdir(moved)).toEqual([]);
});

test("a machine on which its memory cannot go on refuses it, and it stays where it is", async () => {
  const sandboxId = await paused();
  destination.driver.fingerprintChanges = { cpu: "another" };
  const moveId = randomUUID();
  const failure = await failureOf(carry(sandboxId, from, to, { moveId }));
  expect(failure).toMatchObject({ code: "image_incompatible" });
  expect(await arrivalFolders(destination)).toEqual([]);
  await source.client.endMove({ sandboxId, moveId, stays: true });
  await source.client.resumeSandbox({ sandboxId });
});

// What a hostile sender may try. Nothing of it is left, and nothing of the destination's is touched.

const lies: [string, CarryOptions][] = [
  ["another sandbox's id", { onParcel: changed((record) => (record.spec.sandboxId = aSpec().sandboxId)) }],
  ["more memory than is recorded", { known: { memoryMib: 128 } }],
  ["another token than is recorded", { known: { accessToken: "another" } }],
  ["a larger disk than is recorded", { known: { diskSizeMib: 1 } }],
  ["a record that runs", { onParcel: changed((record) => (record.state = "running")) }],
  ["a layer by a path", { onParcel: changed((record) => (record.layers = ["../../../escape.qcow2"])) }],
  ["a layer that does not come", { onParcel: changed((record) => (record.layers = ["lother.qcow2"])) }],
  ["a manifest that is not sealed", { onParcel: (parcel) => void (parcel.manifests = [Buffer.from("{}")]) }],
  ["loose layers by a path", { onParcel: (parcel) => void (parcel.looseLayers = Buffer.from(looseEscape())) }],
  ["no record", { onParcel: (parcel) => void (parcel.record = Buffer.from("null")) }],
  ["no current generation", { onParcel: (parcel) => void (parcel.pointer = Buffer.alloc(0)) }],
];

test.each(lies)("a parcel with %s is refused before anything is made", async (_, options) => {
  const sandboxId = await paused();
  expect(await failureOf(carry(sandboxId, from, to, options))).toMatchObject({ code: "request_invalid" });
  expect(await arrivalFolders(destination)).toEqual([]);
  expect(await destination.leftovers()).toEqual([]);
});

const wrongParts: [string, CarryOptions, string][] = [
  ["a file that is not needed", { onPart: (part) => void (part.file = "../../sandboxes/x/sandbox.json") }, "request_invalid"],
  ["bytes behind its end", { onPart: (part) => void (part.offset += 1n << 40n) }, "request_invalid"],
  ["other bytes than were said", { onPart: (part) => void part.data.fill(7, 0, 1) }, "image_damaged"],
];

test.each(wrongParts)("%s: refused, and nothing of it stays", async (_, options, code) => {
  const sandboxId = await paused();
  const moveId = randomUUID();
  expect(await failureOf(carry(sandboxId, from, to, { ...options, moveId }))).toMatchObject({ code });
  await destination.client.endMove({ sandboxId, moveId, stays: false });
  expect(await arrivalFolders(destination)).toEqual([]);
  expect(await destination.leftovers()).toEqual([]);
  await source.client.endMove({ sandboxId, moveId, stays: true });
  await source.client.resumeSandbox({ sandboxId });
});

test("a sandbox that is here is not replaced by one that comes under its id, nor ended by its move", async () => {
  const sandboxId = await paused();
  await destination.client.createSandbox({ spec: aSpec({ sandboxId }) });
  const moveId = randomUUID();
  expect(await failureOf(carry(sandboxId, from, to, { moveId }))).toMatchObject({ code: "sandbox_exists" });
  await destination.client.endMove({ sandboxId, moveId, stays: false });
  expect((await look(destination, sandboxId)).state).toBe(SandboxState.RUNNING);
});

test("bytes of a try that was given up are refused", async () => {
  const sandboxId = await paused();
  const moveId = randomUUID();
  const { parcel, sandbox } = await source.client.beginDeparture({ sandboxId, moveId });
  const { vcpus, memoryMib, diskSizeMib, accessToken } = must(sandbox?.spec, "a spec");
  const asked = { moveId, sandboxId, ...(parcel === undefined ? {} : { parcel }), vcpus, memoryMib, diskSizeMib, accessToken };
  const first = await destination.client.beginArrival(asked);
  await destination.client.beginArrival(asked);
  const part = { moveId, attemptId: first.attemptId, file: must(first.neededFiles[0], "a file"), offset: 0n, data: Buffer.from("x") };
  expect(await failureOf(destination.client.writeArrival(part))).toMatchObject({ code: "sandbox_changed" });
  expect(await failureOf(destination.client.completeArrival({ moveId, attemptId: first.attemptId, sandboxId }))).toMatchObject({
    code: "sandbox_changed",
  });
});

function looseEscape(): string {
  const identity = { dev: "1", ino: "1", mtimeNs: "1" };
  return JSON.stringify([{ file: "../escape.qcow2", sizeBytes: 1, digest: `crc32-4m:${"0".repeat(64)}`, identity }]);
}

interface ChangeableRecord {
  spec: { sandboxId: string };
  state: string;
  layers: string[];
}

function changed(how: (record: ChangeableRecord) => unknown): CarryOptions["onParcel"] {
  return (parcel) => {
    const record = JSON.parse(Buffer.from(parcel.record).toString("utf8")) as ChangeableRecord;
    how(record);
    parcel.record = Buffer.from(JSON.stringify(record));
  };
}
