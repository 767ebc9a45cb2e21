import { mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { chooseAccelerator, type AcceleratorOptions } from "./accelerator.ts";
import { FakeDriver } from "./fake.ts";
import { probeGuestWords } from "./probe-guest.ts";

let stateDir: string;
let driver: FakeDriver;
let options: AcceleratorOptions;
let starts: number;
/** What happens once the probe's VM runs. */
let afterStart: () => void;

beforeEach(async () => {
  stateDir = await mkdtemp(join(tmpdir(), "roost-accelerator-"));
  const kvmDevice = join(stateDir, "kvm");
  await writeFile(kvmDevice, "");
  await writeFile(join(stateDir, "kernel"), "");
  starts = 0;
  afterStart = () => driver.writeConsole("probe", `${probeGuestWords}\n`);
  driver = new FakeDriver({
    startGuest: () => {
      starts += 1;
      setImmediate(() => afterStart());
      return { close: () => undefined };
    },
  });
  const kernel = { path: join(stateDir, "kernel"), digest: "sha256:1" };
  options = { setting: "auto", driver, kernel, stateDir, uid: 70_000, gid: 70_000, kvmDevice, probeTimeoutMs: 10_000 };
});

afterEach(async () => {
  expect(driver.running, "VMs the probe left").toEqual([]);
  expect((await readdir(stateDir)).filter((name) => name.startsWith("probe-"))).toEqual([]);
  await rm(stateDir, { recursive: true, force: true });
});

test("KVM is used when a guest boots with it, and that is found out once", async () => {
  const choice = await chooseAccelerator(options);
  expect(choice).toMatchObject({ accelerator: "kvm", reason: expect.stringMatching(/booted in \d+ ms$/) as string });
  expect(await chooseAccelerator(options)).toEqual(choice);
  expect(starts).toBe(1);
});

test("another kernel is another question, and a damaged answer is none", async () => {
  await chooseAccelerator(options);
  await chooseAccelerator({ ...options, kernel: { ...options.kernel, digest: "sha256:2" } });
  expect(starts).toBe(2);
  await writeFile(join(stateDir, "accelerator.json"), "{");
  await chooseAccelerator(options);
  expect(starts).toBe(3);
});

test("a VMM that ends at once means emulation, with its own words", async () => {
  driver.failNextStart();
  const choice = await chooseAccelerator(options);
  expect(choice.accelerator).toBe("tcg");
  expect(choice.reason).toMatch(/kvm is there but no guest runs with it \(the fake VMM was told to fail\), so guests are emulated$/);
  expect(await chooseAccelerator(options)).toEqual(choice);
});

test("a VMM that hangs, or a guest that never gets up, means emulation", async () => {
  driver.hangNextStart();
  const hanging = await chooseAccelerator({ ...options, probeTimeoutMs: 50 });
  expect(hanging).toMatchObject({ accelerator: "tcg", reason: expect.stringContaining("does not boot with it within 0.05 s") as string });
  afterStart = () => undefined;
  const silent = await chooseAccelerator({ ...options, kernel: { ...options.kernel, digest: "sha256:3" }, probeTimeoutMs: 50 });
  expect(silent).toMatchObject({ accelerator: "tcg", reason: expect.stringContaining("does not boot with it") as string });
});

test("a guest that dies while it boots means emulation", async () => {
  afterStart = () => void driver.end("probe", { signal: "SIGABRT" });
  const choice = await chooseAccelerator(options);
  expect(choice).toMatchObject({ accelerator: "tcg", reason: expect.stringContaining("QEMU ended (SIGABRT)") as string });
});

test("no device, or a setting, needs no probe", async () => {
  expect(await chooseAccelerator({ ...options, kvmDevice: "/nonexistent/kvm" })).toEqual({
    accelerator: "tcg",
    reason: "this machine has no /nonexistent/kvm, so guests are emulated",
  });
  expect((await chooseAccelerator({ ...options, setting: "kvm" })).accelerator).toBe("kvm");
  expect((await chooseAccelerator({ ...options, setting: "tcg" })).accelerator).toBe("tcg");
  expect(starts).toBe(0);
});

test("the caller's signal ends the probe, and nothing is remembered", async () => {
  driver.hangNextStart();
  const abort = new AbortController();
  const choice = chooseAccelerator({ ...options, signal: abort.signal });
  setTimeout(() => abort.abort(new Error("shutting down")), 10);
  await expect(choice).rejects.toThrow("shutting down");
  expect(await readdir(stateDir)).not.toContain("accelerator.json");
});
