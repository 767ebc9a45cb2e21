import { readFile } from "node:fs/promises";

import { run } from "@roost/kit";

import type { Accelerator } from "../driver.ts";

/** What kind of computer QEMU shows the guest. */
export interface Machine {
  readonly name: "microvm" | "q35";
  /** Value of `-machine` without the memory backend */
  readonly options: string;
  /** Suffix of virtio device names: `virtio-blk-device` sits on virtio-mmio, `virtio-blk-pci` on PCI */
  readonly virtioBus: "device" | "pci";
  readonly kernelArguments: readonly string[];
}

const commonArguments = ["console=ttyS0", "quiet", "panic=-1", "cryptomgr.notests", "random.trust_cpu=on", "8250.nr_uarts=1"];
/** An emulated CPU does not speculate: the kernel's guards against that only cost. */
const emulated = ["mitigations=off"];
/** A just-in-time compiler in the guest agent pays where its code runs as it is, and costs where it is translated again. */
const native = ["roost.jit=1"];

/**
 * `microvm` boots fastest and has a tenth of q35's device state. Both its legacy timers stay off: with `pit=on` the timer
 * fires before the kernel has given the interrupt controller a vector (an ACPI kernel without legacy hardware never
 * does), the guest takes interrupt 0 for a division by zero, and one boot in three died of it under TCG.
 *
 * `ioapic2=off` leaves room for 8 virtio devices instead of 24; QEMU starts 3 ms sooner, and a VM has at most four.
 *
 * Without a PIT the kernel cannot measure its TSC. KVM tells it; under TCG, which passes the host's TSC through, it is
 * told the host's frequency. Where that is unknown the slower q35 has clocks of its own to measure with.
 */
export function chooseMachine(accelerator: Accelerator, tscKhz: number | undefined): Machine {
  if (accelerator === "tcg" && tscKhz === undefined) {
    return {
      name: "q35",
      options: "q35,hpet=off,smbus=off,sata=off,i8042=off,smm=off",
      virtioBus: "pci",
      kernelArguments: [...commonArguments, ...emulated],
    };
  }
  const own = accelerator === "tcg" ? ["tsc=reliable", `tsc_early_khz=${tscKhz}`, ...emulated] : native;
  return {
    name: "microvm",
    options: "microvm,pit=off,pic=off,ioapic2=off",
    virtioBus: "device",
    kernelArguments: [...commonArguments, ...own],
  };
}

/** Frequency of the host's time stamp counter in `kHz`, as its kernel measured it; undefined when it cannot be told. */
export async function readHostTscKhz(): Promise<number | undefined> {
  const log = await run(["dmesg"]).catch(() => ""); // not permitted in some containers: then the next source
  return tscKhzFromKernelLog(log) ?? tscKhzFromCpuInfo(await readFile("/proc/cpuinfo", "utf8"));
}

export function tscKhzFromKernelLog(log: string): number | undefined {
  const megahertz =
    /tsc: Refined TSC clocksource calibration: (\d+\.\d+) MHz/.exec(log)?.[1] ??
    /tsc: Detected (\d+\.\d+) MHz TSC/.exec(log)?.[1] ??
    /tsc: Detected (\d+\.\d+) MHz/.exec(log)?.[1];
  return megahertz === undefined ? undefined : Math.round(Number(megahertz) * 1_000);
}

/** The `cpu MHz` of a CPU that cannot report its momentary clock (no `aperfmperf`, as in most VMs) is its TSC's. */
export function tscKhzFromCpuInfo(cpuInfo: string): number | undefined {
  if (/^flags\s*:.*\baperfmperf\b/m.test(cpuInfo) || !/^flags\s*:.*\bconstant_tsc\b/m.test(cpuInfo)) return undefined;
  const megahertz = /^cpu MHz\s*:\s*(\d+\.\d+)$/m.exec(cpuInfo)?.[1];
  return megahertz === undefined ? undefined : Math.round(Number(megahertz) * 1_000);
}
