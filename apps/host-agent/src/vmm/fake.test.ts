import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { expect, test } from "vitest";

import { describeVmmDriver } from "./testing/contract-suite.ts";
import { createFakeHarness } from "./testing/fake-harness.ts";
import { isRunning, pageBytes, type GuestMemory, type VmSpec } from "./driver.ts";
import { FakeDriver } from "./fake.ts";

let specs = 0;
function createSpec(): VmSpec {
  specs += 1;
  return {
    sandboxId: `ifake${specs}`,
    folder: `/nonexistent/ifake${specs}`,
    vcpus: 1,
    memoryMib: 256,
    begin: { kind: "boot", kernel: "/nonexistent/kernel", initramfs: "/nonexistent/initramfs", kernelArguments: [] },
    disks: null,
    network: null,
    uid: 70_000,
    gid: 70_000,
    accelerator: "tcg",
  };
}

describeVmmDriver("fake", createFakeHarness, 5_000);

test("a start that hangs ends with its signal and leaves nothing", async () => {
  const fake = new FakeDriver();
  fake.hangNextStart();
  const abort = new AbortController();
  const start = fake.start(createSpec(), abort.signal);
  expect(fake.startsHanging).toBe(1);
  abort.abort(new Error("changed our mind"));
  await expect(start).rejects.toThrow("changed our mind");
  expect(fake.startsHanging).toBe(0);
  expect(fake.running).toEqual([]);
});

test("faults are used up one start each, in order", async () => {
  const fake = new FakeDriver();
  fake.failNextStart();
  await expect(fake.start(createSpec())).rejects.toMatchObject({ code: "sandbox_start_failed" });
  expect(isRunning(await fake.start(createSpec()))).toBe(true);
});

test("adoption can be refused, and the VM still be ended", async () => {
  const fake = new FakeDriver();
  const spec = createSpec();
  const { record } = await fake.start(spec);
  fake.refuseAdoption(spec.sandboxId);
  await expect(fake.adopt(record)).rejects.toMatchObject({ code: "guest_unreachable" });
  await fake.destroy(record);
  expect(fake.running).toEqual([]);
});

test("the guest lives exactly as long as its VM", async () => {
  const events: string[] = [];
  const fake = new FakeDriver({
    startGuest: (spec) => {
      events.push(`start ${spec.memoryMib}`);
      return { address: { host: "127.0.0.1", port: 1 }, close: () => void events.push("close") };
    },
  });
  const spec = createSpec();
  const vm = await fake.start(spec);
  expect(fake.guestOf(spec.sandboxId)?.address).toEqual({ host: "127.0.0.1", port: 1 });
  expect(fake.specOf(spec.sandboxId)).toBe(spec);
  await vm.kill();
  await vm.kill();
  expect(events).toEqual(["start 256", "close"]);
  expect(fake.guestOf(spec.sandboxId)).toBeUndefined();
});

test("a restored guest gets back what it knew, whatever it knew before", async () => {
  const folder = await mkdtemp(join(tmpdir(), "roost-fake-"));
  try {
    const knowledge: unknown[] = [];
    let knows: unknown = { words: "x".repeat(10_000) };
    const fake = new FakeDriver({
      startGuest: (_spec, memory) => {
        knowledge.push(memory);
        return { capture: () => knows, close: () => undefined };
      },
    });
    const vm = await fake.start(createSpec());
    await vm.stop();
    await vm.continue();
    knows = { words: "short" }; // the pages it took before become zeros, and are still told of
    await vm.stop();
    const deviceState = join(folder, "device.state");
    await vm.saveDeviceState(deviceState);
    const memory = await vm.openMemory();
    expect(await memory.changedPages()).toEqual([{ firstPage: 0, pageCount: 3 }]);
    const pages = Buffer.alloc(3 * pageBytes);
    memory.read(0, pages);
    memory.close();
    expect(pages.subarray(pageBytes).every((byte) => byte === 0)).toBe(true);

    const baseFile = join(folder, "base");
    await writeFile(baseFile, pages);
    const restore = (fill: (memory: GuestMemory) => Promise<void>): VmSpec => ({
      ...createSpec(),
      begin: { kind: "restore", baseFile, deviceState, fill },
    });
    await fake.start(restore(async () => undefined));
    expect(knowledge).toEqual([undefined, { words: "short" }]);
    // With the memory of another instant
    const other = restore(async (handle) => handle.write(0, Buffer.alloc(pageBytes)));
    await expect(fake.start(other)).rejects.toMatchObject({
      code: "sandbox_start_failed",
      detail: "the device state belongs to another memory",
    });
    fake.failNext("restore");
    await expect(fake.start(restore(async () => undefined))).rejects.toMatchObject({ code: "sandbox_start_failed" });
    await fake.start(createSpec());
    expect(knowledge.length).toBe(3);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
});

test("each operation can be refused once, and then works; a refused one changes nothing", async () => {
  const fake = new FakeDriver();
  const spec = createSpec();
  const vm = await fake.start(spec);
  fake.failNext("stop");
  await expect(vm.stop()).rejects.toThrow("told to refuse stop");
  expect([await vm.isStopped(), fake.stopped]).toEqual([false, []]);
  await vm.stop();
  expect(fake.stopped).toEqual([spec.sandboxId]);
  fake.failNext("push");
  await expect(vm.pushLayer("a.qcow2")).rejects.toThrow("told to refuse push");
  expect(await vm.layers()).toEqual([]);
  await vm.pushLayer("a.qcow2");
  await vm.pushLayer("b.qcow2");
  fake.failNext("flatten");
  await expect(vm.flattenLayers()).rejects.toThrow("told to refuse flatten");
  expect(fake.layersOf(spec.sandboxId)).toEqual(["a.qcow2", "b.qcow2"]);
  fake.failNext("save");
  await expect(vm.saveDeviceState("/nonexistent/state")).rejects.toThrow("told to refuse save");
  fake.failNext("continue");
  await expect(vm.continue()).rejects.toThrow("told to refuse continue");
  expect(await vm.isStopped()).toBe(true);
  await vm.continue();
  expect(await vm.isStopped()).toBe(false);
});

test("an operation that hangs ends with its VM, and a flattening also with its signal", async () => {
  const fake = new FakeDriver();
  const spec = createSpec();
  const vm = await fake.start(spec);
  const abort = new AbortController();
  fake.hangNext("flatten");
  const flattening = vm.flattenLayers(abort.signal);
  expect(fake.hanging("flatten")).toBe(1);
  abort.abort(new Error("the sandbox is paused"));
  await expect(flattening).rejects.toThrow("the sandbox is paused");
  fake.hangNext("stop");
  const stopping = vm.stop();
  await fake.end(spec.sandboxId, { signal: "SIGSEGV" });
  await expect(stopping).rejects.toThrow("ended during stop");
  expect([fake.hanging("stop"), fake.hanging("flatten")]).toEqual([0, 0]);
  await expect(vm.continue()).rejects.toThrow("the fake VM has ended");
});

test("a machine that differs says so in its fingerprint", async () => {
  const fake = new FakeDriver();
  const before = await fake.fingerprint("tcg");
  fake.fingerprintChanges = { vmmVersion: "fake 2" };
  expect(await fake.fingerprint("tcg")).toEqual({ ...before, vmmVersion: "fake 2" });
});
