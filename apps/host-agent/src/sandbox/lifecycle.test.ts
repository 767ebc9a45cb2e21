import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { newSandboxId, newToken } from "@roost/contract";
import { must, poll } from "@roost/kit";
import { expect, test } from "vitest";

import { failureOf } from "../testing/failure-of.ts";
import { aSpec, FakeHost } from "../testing/fake-host.ts";

const guestOf = (host: FakeHost, id: string) => must(host.guests.get(id), "the guest of a sandbox that runs");

async function running(host: FakeHost, given: Parameters<typeof aSpec>[0] = {}): Promise<string> {
  const spec = aSpec(given);
  await host.client.createSandbox({ spec });
  return spec.sandboxId;
}

test("a paused sandbox holds no VM, slot or memory, and resumes with what it knew", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  guestOf(host, sandboxId).knowledge = { answer: 42 };
  const free = (await host.client.getHost({})).memoryFreeMib;
  const { sandbox } = await host.client.pauseSandbox({ sandboxId });
  expect(sandbox).toMatchObject({ state: SandboxState.PAUSED, hasMemory: true, currentGeneration: 1 });
  expect(host.driver.running).toEqual([]);
  expect([...host.network.lent]).toEqual([]);
  expect((await host.client.getHost({})).memoryFreeMib).toBeGreaterThan(free);
  expect((await host.client.pauseSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);

  const resumed = await host.client.resumeSandbox({ sandboxId });
  expect(resumed.sandbox).toMatchObject({ state: SandboxState.RUNNING, startPath: "restore" });
  expect(guestOf(host, sandboxId).knowledge).toEqual({ answer: 42 });
  expect(guestOf(host, sandboxId).inits.at(-1)?.body.sandboxId).toBe(sandboxId);
  expect((await host.client.getHost({})).memoryFreeMib).toBe(free);
});

test("a pause that fails leaves the sandbox running", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  host.driver.failNext("save");
  expect(await failureOf(host.client.pauseSandbox({ sandboxId }))).toMatchObject({ code: "sandbox_pause_failed" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
  expect(host.driver.stopped).toEqual([]);
  await host.client.pauseSandbox({ sandboxId });
});

test("a resume that fails leaves the sandbox paused", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  guestOf(host, sandboxId).knowledge = { answer: 42 };
  await host.client.pauseSandbox({ sandboxId });
  host.driver.failNext("restore");
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({ code: "sandbox_start_failed" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
  await host.client.resumeSandbox({ sandboxId });
  expect(guestOf(host, sandboxId).knowledge).toEqual({ answer: 42 });
});

test("checkpoints are kept and gone back to; the newest is where a lost VM goes back", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const numbers: number[] = [];
  for (const step of [1, 2, 3]) {
    guestOf(host, sandboxId).knowledge = { step };
    const { generation, sandbox } = await host.client.checkpointSandbox({ sandboxId });
    expect(sandbox?.state).toBe(SandboxState.RUNNING);
    numbers.push(generation?.number ?? 0);
  }
  expect(numbers).toEqual([1, 2, 3]);
  const { generations } = await host.client.listGenerations({ sandboxId });
  expect(generations.map(({ number, isCurrent }) => [number, isCurrent])).toEqual([
    [3, true],
    [2, false],
    [1, false],
  ]);
  await host.client.rollbackSandbox({ sandboxId, generation: 1 });
  expect(guestOf(host, sandboxId).knowledge).toEqual({ step: 1 });
  await host.client.rollbackSandbox({ sandboxId, generation: 3 });
  expect(guestOf(host, sandboxId).knowledge).toEqual({ step: 3 });
  expect(await failureOf(host.client.rollbackSandbox({ sandboxId, generation: 9 }))).toMatchObject({ code: "generation_not_found" });

  await host.driver.end(sandboxId, { signal: "SIGKILL" });
  await poll({ what: "the loss of the VM", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return sandbox?.state === SandboxState.PAUSED ? true : undefined;
  });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.notice).toContain("generation 3");
  await host.client.resumeSandbox({ sandboxId });
  expect(guestOf(host, sandboxId).knowledge).toEqual({ step: 3 });
});

test("a running sandbox whose rollback cannot be started is paused at that generation, and says so", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  await host.client.checkpointSandbox({ sandboxId });
  host.driver.failNext("restore");
  expect(await failureOf(host.client.rollbackSandbox({ sandboxId, generation: 1 }))).toMatchObject({ code: "sandbox_start_failed" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
  expect((await host.toldOf(sandboxId)).at(-1)).toBe("sandbox.paused");
});

test("a checkpoint that fails after it gave the VM a new layer is in nobody's way", async () => {
  let failing: string | undefined;
  await using host = await FakeHost.start({
    deps: {
      onStep: (step) => {
        if (step === failing) throw new Error("told to fail");
      },
    },
  });
  const sandboxId = await running(host);
  for (const step of ["capture:layer-pushed", "capture:continued"]) {
    failing = step;
    expect(await failureOf(host.client.checkpointSandbox({ sandboxId }))).toMatchObject({ code: "snapshot_failed" });
    failing = undefined;
    guestOf(host, sandboxId).knowledge = { step };
    await host.client.pauseSandbox({ sandboxId });
    await host.client.resumeSandbox({ sandboxId });
    expect(guestOf(host, sandboxId).knowledge).toEqual({ step });
  }
});

test("a lost VM without a generation has failed, and its disk can be booted", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  await host.driver.end(sandboxId, { signal: "SIGKILL" });
  await poll({ what: "the loss of the VM", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return sandbox?.state === SandboxState.FAILED ? true : undefined;
  });
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({ code: "sandbox_wrong_state" });
  const { sandbox } = await host.client.resumeSandbox({ sandboxId, memory: false });
  expect(sandbox).toMatchObject({ state: SandboxState.RUNNING, startPath: "boot" });
  expect(sandbox?.failureReason).toBeUndefined();
  expect(host.driver.layersOf(sandboxId)).toHaveLength(2);
});

test("children of a fork have the parent's memory and an identity of their own", async () => {
  await using host = await FakeHost.start();
  const parent = aSpec({ envs: { ONE: "1" } });
  await host.client.createSandbox({ spec: parent });
  guestOf(host, parent.sandboxId).knowledge = { answer: 42 };
  const children = [1, 2, 3].map((index) => ({ sandboxId: newSandboxId(), accessToken: newToken(), envs: { TWO: String(index) } }));
  const { outcomes } = await host.client.forkSandbox({ sandboxId: parent.sandboxId, children });
  expect(outcomes.map(({ outcome }) => outcome.case)).toEqual(["sandbox", "sandbox", "sandbox"]);
  expect((await host.client.getSandbox({ sandboxId: parent.sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
  for (const child of children) {
    const guest = guestOf(host, child.sandboxId);
    expect(guest.knowledge).toEqual({ answer: 42 });
    expect(guest.inits).toHaveLength(1);
    expect(guest.inits[0]).toMatchObject({
      token: parent.accessToken,
      body: { accessToken: child.accessToken, sandboxId: child.sandboxId, envVars: { ONE: "1", TWO: child.envs.TWO } },
    });
  }
  // Each is whole by itself: without the parent too
  await host.client.destroySandbox({ sandboxId: parent.sandboxId });
  for (const { sandboxId } of children) {
    await host.client.pauseSandbox({ sandboxId });
    await host.client.resumeSandbox({ sandboxId });
    expect(guestOf(host, sandboxId).knowledge).toEqual({ answer: 42 });
    await host.client.destroySandbox({ sandboxId });
  }
  expect(await host.leftovers()).toEqual([]);
});

test("a fork that is repeated, also while the first is under way, answers with the children it has made", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const children = [1, 2].map(() => ({ sandboxId: newSandboxId(), accessToken: newToken(), envs: {} }));
  const fork = async () => {
    const { outcomes } = await host.client.forkSandbox({ sandboxId, children });
    return outcomes.map(({ outcome }) => (outcome.case === "sandbox" ? outcome.value.spec?.sandboxId : outcome.value?.code));
  };
  const ids = children.map((child) => child.sandboxId);
  expect(await Promise.all([fork(), fork()])).toEqual([ids, ids]);
  await host.client.pauseSandbox({ sandboxId: ids[0] ?? "" });
  expect(await fork()).toEqual(ids);
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.currentGeneration).toBe(1); // it was saved once
});

test("children that do not fit fail by themselves", async () => {
  await using host = await FakeHost.start({ settings: { sandboxCountMax: 3 } });
  const sandboxId = await running(host);
  const children = [1, 2, 3].map(() => ({ sandboxId: newSandboxId(), accessToken: newToken(), envs: {} }));
  const { outcomes } = await host.client.forkSandbox({ sandboxId, children });
  expect(outcomes.map(({ outcome }) => outcome.case)).toEqual(["sandbox", "sandbox", "failure"]);
  expect(outcomes[2]?.outcome.value).toMatchObject({ code: "capacity_exhausted" });
});

test("a template from a running and from a paused sandbox; its sizes are fixed; in use it stays", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host, { memoryMib: 300 });
  guestOf(host, sandboxId).knowledge = { answer: 42 };
  const { template } = await host.client.createTemplate({ sandboxId, name: "one" });
  expect(template).toMatchObject({ name: "one", kind: "snapshot", hasMemory: true, memoryMib: 300, vcpus: 1, sourceSandboxId: sandboxId });
  await host.client.pauseSandbox({ sandboxId });
  await host.client.createTemplate({ sandboxId, name: "two" });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.PAUSED);
  expect(await failureOf(host.client.createTemplate({ sandboxId, name: "one" }))).toMatchObject({ code: "snapshot_exists" });
  expect(await failureOf(host.client.createTemplate({ sandboxId, name: "base" }))).toMatchObject({ code: "snapshot_exists" });

  for (const name of ["one", "two"]) {
    const spec = aSpec({ template: name, vcpus: 0, memoryMib: 0 });
    const { sandbox } = await host.client.createSandbox({ spec });
    expect(sandbox).toMatchObject({ startPath: "restore", spec: { memoryMib: 300, vcpus: 1 } });
    expect(guestOf(host, spec.sandboxId).knowledge).toEqual({ answer: 42 });
    expect(await failureOf(host.client.createSandbox({ spec: aSpec({ template: name, vcpus: 2, memoryMib: 0 }) }))).toMatchObject({
      code: "template_size_fixed",
    });
    expect(await failureOf(host.client.deleteTemplate({ name }))).toMatchObject({
      code: "snapshot_in_use",
      message: expect.stringContaining(spec.sandboxId) as string,
    });
    await host.client.destroySandbox({ sandboxId: spec.sandboxId });
    await host.client.deleteTemplate({ name });
    expect(await failureOf(host.client.getTemplate({ name }))).toMatchObject({ code: "snapshot_not_found" });
  }
  expect((await host.client.listTemplates({})).templates.map(({ name }) => name)).toEqual(["base"]);
});

test("a snapshot that the control plane names is told by it, and goes although sandboxes of it are there", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  const name = `snapshot-${"0a".repeat(16)}`;
  const { template } = await host.client.createTemplate({ sandboxId, name });
  expect(template).toMatchObject({ name, kind: "snapshot" });
  for (const other of [`build-${"0a".repeat(16)}`, `step-${"0".repeat(40)}`]) {
    expect(await failureOf(host.client.createTemplate({ sandboxId, name: other }))).toMatchObject({ code: "request_invalid" });
  }
  const spec = aSpec({ template: name, templateName: "team/mine", vcpus: 0, memoryMib: 0 });
  expect((await host.client.createSandbox({ spec })).sandbox).toMatchObject({ startPath: "restore" });
  await host.client.deleteTemplate({ name });
  expect(await failureOf(host.client.getTemplate({ name }))).toMatchObject({ code: "snapshot_not_found" });
  await host.client.pauseSandbox({ sandboxId: spec.sandboxId });
  const resumed = await host.client.resumeSandbox({ sandboxId: spec.sandboxId });
  expect(resumed.sandbox).toMatchObject({ state: SandboxState.RUNNING, startPath: "restore" });
  const { entries } = await host.client.getLogs({ sandboxId, limit: 100 });
  expect(entries.map(({ message }) => message)).toContain("a snapshot was made of it");
});

test("a snapshot gives way to a newer one of its name; what started from the old one keeps what it has", async () => {
  await using host = await FakeHost.start();
  const templates = async () => (await readdir(join(host.folder, "state", "templates"))).sort();
  const sandboxId = await running(host);
  guestOf(host, sandboxId).knowledge = { answer: 1 };
  await host.client.createTemplate({ sandboxId, name: "mine:v1" });
  expect(await templates()).toEqual(["mine@v1"]);
  const spec = () => aSpec({ template: "mine:v1", vcpus: 0, memoryMib: 0 });
  const old = spec();
  await host.client.createSandbox({ spec: old });
  guestOf(host, sandboxId).knowledge = { answer: 2 };
  const { template } = await host.client.createTemplate({ sandboxId, name: "mine:v1", replace: true });
  expect(template).toMatchObject({ name: "mine:v1", sourceSandboxId: sandboxId });
  expect(await failureOf(host.client.createTemplate({ sandboxId, name: "base", replace: true }))).toMatchObject({
    code: "snapshot_exists",
  });

  await host.client.pauseSandbox({ sandboxId: old.sandboxId });
  await host.client.resumeSandbox({ sandboxId: old.sandboxId });
  expect(guestOf(host, old.sandboxId).knowledge).toEqual({ answer: 1 });
  await host.endAgent();
  await host.startAgent();
  const after = spec();
  expect((await host.client.createSandbox({ spec: after })).sandbox).toMatchObject({ startPath: "restore" });
  expect(guestOf(host, after.sandboxId).knowledge).toEqual({ answer: 2 });
  expect(await templates()).toEqual([expect.stringMatching(/^mine@v1~[0-9a-f]{8}$/)]);
  for (const id of [old.sandboxId, after.sandboxId]) await host.client.destroySandbox({ sandboxId: id });
  await host.client.deleteTemplate({ name: "mine:v1" });
  expect(await templates()).toEqual([]);
});

test("base templates start from memory once their image is made, and others that boot are remembered", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "none" } });
  const startPath = async (memoryMib: number) => {
    const spec = aSpec({ memoryMib });
    const { sandbox } = await host.client.createSandbox({ spec });
    await host.client.destroySandbox({ sandboxId: spec.sandboxId });
    return sandbox?.startPath;
  };
  for (const memoryMib of [512, 300]) {
    await poll({ what: "a restore", timeoutMs: 30_000 }, async () => ((await startPath(memoryMib)) === "restore" ? true : undefined));
  }
  // What does not fit this host any more boots, and is made anew
  host.driver.fingerprintChanges = { vmmVersion: "fake 2" };
  expect(await startPath(512)).toBe("boot");
  await poll({ what: "a restore", timeoutMs: 30_000 }, async () => ((await startPath(512)) === "restore" ? true : undefined));
});

test("waiting VMs are handed out once, filled up again, and have no identity before", async () => {
  await using host = await FakeHost.start({ settings: { memoryImages: "true", poolSizes: "base=2" } });
  const waiting = () => host.driver.stopped.length;
  await poll({ what: "the warm pool", timeoutMs: 30_000 }, async () => (waiting() === 2 ? true : undefined));
  const specs = [1, 2, 3, 4].map(() => aSpec({ vcpus: 0, memoryMib: 0, diskSizeMib: 1_024 })); // the template's, as a control plane says it
  const created = await Promise.all(specs.map(async (spec) => (await host.client.createSandbox({ spec })).sandbox));
  expect(created.map((sandbox) => sandbox?.startPath).toSorted()).toEqual(["pool", "pool", "restore", "restore"]);
  expect(new Set(created.map((sandbox) => sandbox?.spec?.sandboxId)).size).toBe(4);
  await poll({ what: "the warm pool", timeoutMs: 30_000 }, async () => (waiting() === 2 ? true : undefined));
  for (const { sandboxId } of specs) {
    await host.client.pauseSandbox({ sandboxId });
    await host.client.resumeSandbox({ sandboxId });
    await host.client.destroySandbox({ sandboxId });
  }
  await host.endAgent();
  expect(host.driver.running).toEqual([]);
});

test("an image of another machine is not restored: its files come back without memory", async () => {
  await using host = await FakeHost.start();
  const sandboxId = await running(host);
  await host.client.createTemplate({ sandboxId, name: "one" });
  await host.client.pauseSandbox({ sandboxId });
  host.driver.fingerprintChanges = { cpu: "another" };
  expect(await failureOf(host.client.resumeSandbox({ sandboxId }))).toMatchObject({
    code: "image_incompatible",
    message: expect.stringMatching(/cpu.*memory=false/) as string,
  });
  const { sandbox } = await host.client.resumeSandbox({ sandboxId, memory: false });
  expect(sandbox).toMatchObject({ state: SandboxState.RUNNING, startPath: "boot" });
  const spec = aSpec({ template: "one", vcpus: 0, memoryMib: 0 });
  expect((await host.client.createSandbox({ spec })).sandbox?.startPath).toBe("boot");
});

test("nobody uses a sandbox: it is paused; when that fails it runs on and is tried again", async () => {
  await using host = await FakeHost.start();
  host.driver.failNext("save");
  const sandboxId = await running(host, { timeoutSec: 1 });
  await poll({ what: "the failure", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return sandbox?.notice?.includes("tried again") === true ? true : undefined;
  });
  expect((await host.client.getSandbox({ sandboxId })).sandbox?.state).toBe(SandboxState.RUNNING);
  const other = await running(host, { timeoutSec: 1 });
  await poll({ what: "the pause", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId: other });
    return sandbox?.state === SandboxState.PAUSED ? true : undefined;
  });
});

test("checkpoints are made at intervals, and the newest are kept", async () => {
  await using host = await FakeHost.start({ settings: { checkpointsKept: 1 } });
  const sandboxId = await running(host, { checkpointIntervalSec: 1 });
  await poll({ what: "the third checkpoint", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return (sandbox?.currentGeneration ?? 0) >= 3 && sandbox?.state === SandboxState.RUNNING ? true : undefined;
  });
  await poll({ what: "upkeep", timeoutMs: 30_000 }, async () => {
    const { generations } = await host.client.listGenerations({ sandboxId });
    return generations.length === 2 ? true : undefined; // the current one, and one more
  });
});

test("merging layers after a lost VM keeps what its disk held at the end", async () => {
  await using host = await FakeHost.start({ settings: { layersMax: 1 } });
  const sandboxId = await running(host);
  host.driver.failNext("flatten"); // its layers are not merged while it runs
  await host.client.checkpointSandbox({ sandboxId });
  const [, newest] = host.driver.layersOf(sandboxId);
  await host.driver.end(sandboxId, { signal: "SIGKILL" });
  await poll({ what: "the loss of the VM", timeoutMs: 30_000 }, async () => {
    const { sandbox } = await host.client.getSandbox({ sandboxId });
    return sandbox?.state === SandboxState.PAUSED ? true : undefined;
  });
  await host.client.createTemplate({ sandboxId, name: "one" }); // begins the upkeep of a paused sandbox
  await poll({ what: "the merge", timeoutMs: 30_000 }, async () => (await host.mergeCount()) > 0 || undefined);
  await host.client.resumeSandbox({ sandboxId, memory: false });
  expect(host.driver.layersOf(sandboxId)).toContain(newest);
});
