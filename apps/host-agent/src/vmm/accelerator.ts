import { mkdir, mkdtemp, open, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { Cleanup, MiB, poll, second, silentLogger, writeFileDurably, type Logger } from "@roost/kit";
import { z } from "zod";

import type { Accelerator, Vm, VmmDriver } from "./driver.ts";
import { probeGuestWords, probeInitramfs } from "./probe-guest.ts";

/**
 * Time the probe's guest has to boot in `ms`: under working KVM it takes well below one second, nested too. Longer means
 * that KVM is no faster than emulation, or spins.
 */
const probeTimeoutMs = 5 * second;
/** Characters of QEMU's own words in a reason. */
const reasonLengthMax = 160;
const probeMemoryMib = 192;
const kvmDevice = "/dev/kvm";
const choiceFileName = "accelerator.json";

export interface AcceleratorChoice {
  readonly accelerator: Accelerator;
  /** Why, as a sentence for the log and `roost doctor` */
  readonly reason: string;
}

export interface AcceleratorOptions {
  readonly setting: "auto" | Accelerator;
  readonly driver: VmmDriver;
  readonly kernel: { readonly path: string; readonly digest: string };
  /** The answer is remembered here; absolute */
  readonly stateDir: string;
  /** What the probe's VMM runs as */
  readonly uid: number;
  readonly gid: number;
  readonly log?: Logger;
  readonly signal?: AbortSignal;
  /** The device and the deadline of the probe in `ms`, for tests */
  readonly kvmDevice?: string;
  readonly probeTimeoutMs?: number;
}

const rememberedSchema = z.object({
  formatVersion: z.literal(1),
  bootId: z.string(),
  vmmVersion: z.string(),
  kernelDigest: z.string(),
  accelerator: z.enum(["kvm", "tcg"]),
  reason: z.string(),
});

/**
 * KVM where it really works, else emulation (TCG).
 *
 * That /dev/kvm opens and makes a VM says little: in nested set-ups without hardware virtualization it aborts on a model
 * specific register, or interprets kernel code so slowly that no kernel gets to its init. So the kernel that sandboxes boot
 * is booted once with it, under a deadline, and the answer kept for as long as host, QEMU and kernel are the same.
 */
export async function chooseAccelerator(options: AcceleratorOptions): Promise<AcceleratorChoice> {
  if (options.setting !== "auto") return { accelerator: options.setting, reason: `the settings say so` };
  const absent = await whyNoDevice(options.kvmDevice ?? kvmDevice);
  if (absent !== undefined) return { accelerator: "tcg", reason: `${absent}, so guests are emulated` };

  const path = join(options.stateDir, choiceFileName);
  const key = {
    formatVersion: 1,
    bootId: (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim(),
    vmmVersion: await options.driver.version(),
    kernelDigest: options.kernel.digest,
  } as const;
  const remembered = await readRemembered(path);
  const isCurrent =
    remembered?.bootId === key.bootId && remembered.vmmVersion === key.vmmVersion && remembered.kernelDigest === key.kernelDigest;
  if (remembered !== undefined && isCurrent) return { accelerator: remembered.accelerator, reason: remembered.reason };

  const choice = await probeKvm(options);
  await mkdir(options.stateDir, { recursive: true });
  await writeFileDurably(path, `${JSON.stringify({ ...key, ...choice })}\n`);
  return choice;
}

async function probeKvm(options: AcceleratorOptions): Promise<AcceleratorChoice> {
  const log = options.log ?? silentLogger;
  await readFile(options.kernel.path); // into the page cache: a slow disk says nothing about KVM
  await mkdir(options.stateDir, { recursive: true });
  await using cleanup = new Cleanup();
  const folder = await mkdtemp(join(options.stateDir, "probe-"));
  cleanup.defer("remove the probe's files", () => rm(folder, { recursive: true, force: true }));
  const initramfs = join(folder, "initramfs");
  await writeFile(initramfs, probeInitramfs(), { mode: 0o644 });

  const timeoutMs = options.probeTimeoutMs ?? probeTimeoutMs;
  const started = performance.now();
  const deadline = AbortSignal.timeout(timeoutMs);
  const signal = options.signal === undefined ? deadline : AbortSignal.any([deadline, options.signal]);
  try {
    const vm = await options.driver.start(
      {
        sandboxId: "probe",
        folder,
        vcpus: 1,
        memoryMib: probeMemoryMib,
        begin: { kind: "boot", kernel: options.kernel.path, initramfs, kernelArguments: [] },
        disks: null,
        network: null,
        uid: options.uid,
        gid: options.gid,
        accelerator: "kvm",
      },
      signal,
    );
    cleanup.defer("end the probe's VM", () => vm.kill());
    await guestIsUp(vm, timeoutMs, signal);
    const bootMs = Math.round(performance.now() - started);
    return { accelerator: "kvm", reason: `hardware virtualization works: the kernel booted in ${bootMs} ms` };
  } catch (error) {
    options.signal?.throwIfAborted();
    log.info({ err: error }, "no guest boots with /dev/kvm");
    return { accelerator: "tcg", reason: `${kvmDevice} is there but ${describeFailure(error, timeoutMs)}, so guests are emulated` };
  }
}

async function guestIsUp(vm: Vm, timeoutMs: number, signal: AbortSignal): Promise<void> {
  let ended: string | undefined;
  void vm.exited.then((exit) => {
    ended = exit.signal ?? `exit code ${exit.exitCode}`;
  });
  const words = await poll({ what: "the probe guest's boot", timeoutMs, intervalMs: 10, signal }, async () => {
    const hasEnded = ended !== undefined; // asked first: what is printed before the end is read after it
    if ((await vm.console(MiB)).includes(probeGuestWords)) return probeGuestWords;
    return hasEnded ? "" : undefined;
  });
  if (words === "") throw new Error(`QEMU ended (${ended}) before its guest was up: ${(await vm.consoleTail(1)).join("")}`);
}

function describeFailure(error: unknown, timeoutMs: number): string {
  const isLate = error instanceof Error && ["AbortError", "TimeoutError", "DeadlineError"].includes(error.name);
  if (isLate) return `a guest does not boot with it within ${timeoutMs / second} s`;
  const said = error instanceof PlatformError ? (error.detail ?? error.message) : String(error);
  return `no guest runs with it (${said.split("\n")[0]?.slice(0, reasonLengthMax)})`;
}

async function whyNoDevice(device: string): Promise<string | undefined> {
  try {
    await using handle = await open(device, "r+");
    void handle;
    return undefined;
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code;
    return code === "ENOENT" ? `this machine has no ${device}` : `${device} cannot be opened (${code})`;
  }
}

/** A file that cannot be read or has another format is as good as none: the probe runs again. */
async function readRemembered(path: string) {
  try {
    return rememberedSchema.parse(JSON.parse(await readFile(path, "utf8")));
  } catch {
    return undefined;
  }
}
