import { expect, test } from "vitest";

import { describeVmmDriver, type DriverHarness } from "./testing/contract-suite.ts";
import { isRunning, type VmSpec } from "./driver.ts";
import { FakeDriver } from "./fake.ts";

let specs = 0;
function createSpec(): VmSpec {
  specs += 1;
  return {
    sandboxId: `ifake${specs}`,
    folder: `/nonexistent/ifake${specs}`,
    vcpus: 1,
    memoryMib: 256,
    kernel: "/nonexistent/kernel",
    initramfs: "/nonexistent/initramfs",
    kernelArguments: [],
    disks: null,
    network: null,
    uid: 70_000,
    gid: 70_000,
    accelerator: "tcg",
  };
}

async function createHarness(): Promise<DriverHarness> {
  const endsAtOnce = new Set<string>();
  const fake = new FakeDriver({
    startGuest: (spec) => {
      if (endsAtOnce.has(spec.sandboxId)) setImmediate(() => void fake.end(spec.sandboxId, { exitCode: 0 }));
      return { close: () => undefined };
    },
  });
  return {
    createDriver: () => fake, // the object stands for the machine, which all drivers share
    createSpec: async (behaviour = "idle") => {
      const spec = createSpec();
      if (behaviour === "poweroff") endsAtOnce.add(spec.sandboxId);
      return spec;
    },
    crash: (record) => fake.end(record.sandboxId, { signal: "SIGKILL" }),
    arrangeFailure: async (spec) => {
      fake.failNextStart();
      return spec;
    },
    leftovers: async () => fake.running,
    close: async () => undefined,
  };
}

describeVmmDriver("fake", createHarness, 1_000);

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
