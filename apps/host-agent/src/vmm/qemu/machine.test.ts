import { expect, test } from "vitest";

import { cpuDigest } from "./host-cpu.ts";
import { chooseMachine, tscKhzFromCpuInfo, tscKhzFromKernelLog } from "./machine.ts";

test("emulation uses microvm when the TSC's frequency is known, and tells the guest", () => {
  const machine = chooseMachine("tcg", 2_596_132);
  expect(machine).toMatchObject({ name: "microvm", options: "microvm,pit=off,pic=off,ioapic2=off", virtioBus: "device" });
  expect(machine.kernelArguments).toContain("tsc_early_khz=2596132");
});

test("emulation with an unknown TSC uses a machine that has other clocks", () => {
  const machine = chooseMachine("tcg", undefined);
  expect(machine).toMatchObject({ name: "q35", virtioBus: "pci" });
  expect(machine.kernelArguments.join(" ")).not.toContain("tsc");
});

test("KVM tells the guest its TSC by itself", () => {
  const machine = chooseMachine("kvm", undefined);
  expect(machine.name).toBe("microvm");
  expect(machine.kernelArguments.join(" ")).not.toMatch(/tsc|mitigations/);
});

test("the refined frequency wins over the detected one", () => {
  const log = "[    0.000064] tsc: Detected 2596.000 MHz processor\n[    2.1] tsc: Refined TSC clocksource calibration: 2596.132 MHz\n";
  expect(tscKhzFromKernelLog(log)).toBe(2_596_132);
  expect(tscKhzFromKernelLog("[ 0.0] tsc: Detected 2900.000 MHz processor\n[ 0.0] tsc: Detected 2899.886 MHz TSC\n")).toBe(2_899_886);
  expect(tscKhzFromKernelLog("tsc: Detected 2596.132 MHz processor")).toBe(2_596_132);
  expect(tscKhzFromKernelLog("")).toBeUndefined();
});

test("the clock of /proc/cpuinfo counts only where it cannot be a momentary one", () => {
  const info = (flags: string) => `processor\t: 0\nflags\t\t: fpu tsc ${flags}\ncpu MHz\t\t: 2596.132\n`;
  expect(tscKhzFromCpuInfo(info("constant_tsc hypervisor"))).toBe(2_596_132);
  expect(tscKhzFromCpuInfo(info("constant_tsc aperfmperf"))).toBeUndefined();
  expect(tscKhzFromCpuInfo(info("hypervisor"))).toBeUndefined();
  expect(tscKhzFromCpuInfo("")).toBeUndefined();
});

test("a host's CPU is told by what a guest sees of it, not by its clock", () => {
  const info = (clock: string, flags: string) =>
    `processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 106\nstepping\t: 6\ncpu MHz\t\t: ${clock}\nflags\t\t: ${flags}\n\nprocessor\t: 1\n`;
  expect(cpuDigest(info("2600.000", "fpu sse"))).toBe(cpuDigest(info("3100.123", "fpu sse")));
  expect(cpuDigest(info("2600.000", "fpu sse"))).not.toBe(cpuDigest(info("2600.000", "fpu sse avx512f")));
  expect(cpuDigest(info("2600.000", "fpu sse"))).not.toBe(
    cpuDigest(info("2600.000", "fpu sse").replace("model\t\t: 106", "model\t\t: 143")),
  );
});
