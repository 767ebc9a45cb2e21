import { mkdir } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { Cleanup, type Logger } from "@roost/kit";

import { GuestClient } from "../guest/guest-client.ts";
import type { Slot } from "../network/network.ts";
import { exitConsoleLines, type Vm, type VmExit, type VmRecord } from "../vmm/driver.ts";
import type { CreateStep, SandboxContext } from "./context.ts";
import { consoleBytesMax } from "./record-store.ts";
import type { SandboxSpec } from "./sandbox-record.ts";

/** A VM whose guest agent answered and knows who it is. */
export interface StartedVm {
  readonly vm: Vm;
  readonly slot: Slot;
  readonly versions: Readonly<Record<string, string>>;
}

/** A create that failed; everything it had made is gone. */
export class StartFailure extends Error {
  override readonly name = "StartFailure";
  readonly error: PlatformError;
  /** How the VM ended, or what its console said last; undefined when there was no VM */
  readonly vmExit: VmExit | undefined;
  readonly console: Buffer | undefined;

  constructor(error: PlatformError, vmExit: VmExit | undefined, console: Buffer | undefined) {
    super(error.message, { cause: error });
    this.error = error;
    this.vmExit = vmExit;
    this.console = console;
  }
}

class VmEnded extends Error {
  override readonly name = "VmEnded";
  readonly exit: VmExit;

  constructor(exit: VmExit) {
    const lastLine = exit.consoleTail.at(-1);
    super(
      `the VM ended while it was starting: ${describeExit(exit)}${lastLine === undefined ? "" : `; the last it said was "${shortened(lastLine)}"`}`,
    );
    this.exit = exit;
  }
}

/** How a VM ended, for users. A panic, a power-off and a restart all end the VMM with 0: only the console tells a panic from the others. */
export function describeExit(exit: VmExit): string {
  if (exit.signal !== null) return `its VMM was ended by ${exit.signal}`;
  if (exit.exitCode === 0) {
    const panic = exit.consoleTail.find((line) => line.includes("Kernel panic"));
    return panic === undefined ? "the guest powered off or restarted" : `the guest's kernel gave up ("${shortened(panic)}")`;
  }
  return exit.exitCode === null ? "nobody saw how" : `its VMM exited with code ${exit.exitCode}`;
}

/** Longest quotation of a guest's console in a message in characters */
const quotationLengthMax = 200;

function shortened(line: string): string {
  return line.length <= quotationLengthMax ? line : `${line.slice(0, quotationLengthMax)}…`;
}

export interface StartOptions {
  readonly spec: SandboxSpec;
  readonly context: SandboxContext;
  /** Keeps the VM's record durably: a later host agent finds the VM by it */
  readonly keepVmRecord: (record: VmRecord) => Promise<void>;
  readonly log: Logger;
  /** Aborts the create: all is rolled back, then it rejects with a `StartFailure` */
  readonly signal: AbortSignal;
}

/** Slot, overlay, VMM, guest agent, identity; on any failure all of it is undone in reverse, then a `StartFailure` is thrown. */
export async function startVm(options: StartOptions): Promise<StartedVm> {
  const { spec, context, log } = options;
  const cleanup = new Cleanup();
  const vmEnded = new AbortController();
  const signal = AbortSignal.any([options.signal, vmEnded.signal]);
  let vm: Vm | undefined;
  const begin = async (step: CreateStep) => {
    signal.throwIfAborted();
    await context.onStep?.(step, spec.sandboxId);
    signal.throwIfAborted();
  };
  try {
    await begin("find-template");
    const images = await context.images.template(spec.template);

    await begin("await-turn");
    await context.startGate.enter(signal);
    cleanup.defer("let the next one start", () => context.startGate.leave());

    await begin("acquire-slot");
    const slot = await context.network.acquire(signal);
    cleanup.defer("release the network slot", () => context.network.release(slot));

    await begin("make-overlay");
    const overlay = context.store.overlayPath(spec.sandboxId);
    const sizeMib = spec.diskSizeMib === 0 ? images.diskSizeMib : spec.diskSizeMib;
    cleanup.defer("remove the VM's files", () => context.store.removeVmFiles(spec.sandboxId));
    await context.disks.createOverlay({ base: images.base, path: overlay, sizeMib, uid: slot.uid, gid: slot.uid });

    await begin("start-vm");
    const folder = context.store.vmFolder(spec.sandboxId);
    await mkdir(folder, { mode: 0o711 });
    const cgroup = context.cgroupOf(spec.sandboxId);
    const started = await context.driver.start(
      {
        sandboxId: spec.sandboxId,
        folder,
        vcpus: spec.vcpus,
        memoryMib: spec.memoryMib,
        kernel: images.kernel,
        initramfs: images.initramfs,
        kernelArguments: [`roost.dns=${context.network.guestDnsServers.join(",")}`],
        disks: { rootOverlay: { path: overlay, backingFiles: [images.base], sizeMib }, agentDisk: images.agentDisk },
        network: { namespacePath: slot.namespacePath, tapName: slot.tapName, macAddress: slot.macAddress },
        uid: slot.uid,
        gid: slot.uid,
        ...(cgroup === undefined ? {} : { cgroup }),
        accelerator: context.accelerator,
      },
      signal,
    );
    vm = started;
    cleanup.defer("end the VM", () => started.kill());
    void started.exited.then((exit) => vmEnded.abort(new VmEnded(exit)));

    await begin("keep-vm-record");
    await options.keepVmRecord(started.record);

    await begin("await-guest");
    const client = new GuestClient((port, dial) => context.network.dial(slot, port, dial), spec.accessToken);
    await client.waitUntilHealthy(context.times.bootTimeoutMs, signal);

    await begin("init-guest");
    await client.init(spec, signal);
    signal.throwIfAborted();
    const versions = {
      kernel: images.kernelVersion,
      vmm: started.record.vmmVersion,
      accelerator: context.accelerator,
      guest_agent: images.agentVersion,
    };
    context.startGate.leave();
    return cleanup.handOver({ vm: started, slot, versions });
  } catch (error) {
    const evidence = await collectEvidence(vm, error);
    await cleanup.run().catch((failure: unknown) => {
      log.error({ err: failure }, "a failed create was not undone completely; the next start of the host agent sweeps what is left");
    });
    throw new StartFailure(toPlatformError(error), evidence?.exit, evidence?.console);
  }
}

async function collectEvidence(vm: Vm | undefined, error: unknown): Promise<{ exit: VmExit; console: Buffer } | undefined> {
  if (vm === undefined) return undefined;
  const console = await vm.console(consoleBytesMax).catch(() => Buffer.alloc(0)); // evidence is a courtesy: the error is what counts
  if (error instanceof VmEnded) return { exit: error.exit, console };
  const consoleTail = await vm.consoleTail(exitConsoleLines).catch(() => []);
  return { exit: { exitCode: null, signal: null, consoleTail }, console };
}

function toPlatformError(error: unknown): PlatformError {
  if (error instanceof PlatformError) return error;
  if (error instanceof VmEnded) return new PlatformError("sandbox_start_failed", error.message, { cause: error });
  return new PlatformError("sandbox_start_failed", "the sandbox could not be started", {
    detail: error instanceof Error ? error.message : String(error),
    cause: error,
  });
}
