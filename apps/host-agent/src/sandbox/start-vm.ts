import { randomBytes } from "node:crypto";
import { mkdir, rm } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { assert, Cleanup, type Logger } from "@roost/kit";

import { GuestClient } from "../guest/guest-client.ts";
import type { BootImages } from "../images/image-catalog.ts";
import { applyDiff } from "../memory/diff-file.ts";
import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import type { GenerationVm } from "../memory/manifest.ts";
import type { HostEgress } from "../network/egress-rules.ts";
import type { Slot } from "../network/network.ts";
import { exitConsoleLines, type ColdBoot, type MemoryRestore, type Vm, type VmExit, type VmRecord } from "../vmm/driver.ts";
import type { CreateStep, SandboxContext } from "./context.ts";
import { consoleBytesMax } from "./record-store.ts";
import type { SandboxSpec } from "./sandbox-record.ts";

/** A VM whose guest agent answered and knows who it is. */
export interface StartedVm {
  readonly vm: Vm;
  readonly slot: Slot;
  readonly layers: readonly string[];
  readonly machine: GenerationVm;
  readonly baseMemory: string;
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

/** The disk a VM starts with. */
export interface StartDisk {
  /** Raw image below all layers, and its digest */
  readonly base: string;
  readonly baseDigest: string;
  /** Names of frozen layers in the image folder's `disk/`, oldest first */
  readonly layers: readonly string[];
  readonly sizeMib: number;
}

/** What a start begins from. */
export type StartSource =
  | {
      readonly kind: "boot";
      readonly disk: StartDisk;
      readonly images: BootImages;
      /** What the VM will be made of */
      readonly machine: GenerationVm;
    }
  /** A generation of the image folder, with memory */
  | { readonly kind: "restore"; readonly generation: Generation };

/** What has to be known to find the VM again. */
export interface VmTraces {
  readonly vm: VmRecord;
  readonly layers: readonly string[];
  readonly machine: GenerationVm;
  readonly baseMemory: string;
}

export interface StartOptions {
  readonly spec: Pick<SandboxSpec, "sandboxId" | "vcpus" | "memoryMib"> & { readonly network: HostEgress };
  readonly context: SandboxContext;
  readonly source: StartSource;
  /** Where the disk's layers and the memory's base files are */
  readonly images: ImageFolder;
  /** The driver's; must not exist */
  readonly vmFolder: string;
  /** Keeps what leads to the VM durably: a later host agent finds it by that */
  readonly keep: (traces: VmTraces) => Promise<void>;
  /** Makes the guest that answers the one it should be */
  readonly introduce: (client: GuestClient, signal: AbortSignal) => Promise<void>;
  /** What the guest agent obeys as it starts; null: it has no token yet */
  readonly accessToken: string | null;
  readonly log: Logger;
  /** Aborts the start: all is rolled back, then it rejects with a `StartFailure` */
  readonly signal: AbortSignal;
}

/** Slot, top layer, VMM, guest agent, identity; on any failure all of it is undone in reverse, then a `StartFailure` is thrown. */
export async function startVm(options: StartOptions): Promise<StartedVm> {
  const { spec, context, source, images, log } = options;
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
    await begin("await-turn");
    const turns = source.kind === "boot" ? context.startTurns : context.restoreTurns;
    await turns.enter(signal);
    cleanup.defer("let the next one start", () => turns.leave());

    await begin("acquire-slot");
    const slot = await context.network.acquire(signal);
    let isVmmGone = true;
    cleanup.defer("release the network slot", async () => {
      if (isVmmGone) await context.network.release(slot); // else it stays taken: another VM must not get it
    });

    await context.network.setEgress(slot, spec.network); // nothing of the guest runs before

    await begin("make-layer");
    const disk = diskOf(source);
    const top = newLayerName();
    cleanup.defer("remove the new layer", () => rm(images.layerPath(top), { force: true }));
    await context.disks.check();
    await context.disks.createLayer({ path: images.layerPath(top), sizeMib: disk.sizeMib, uid: slot.uid, gid: slot.uid });
    await images.openTo(slot.uid);
    const layers = [...disk.layers, top];
    const begun = await beginning(source, spec.memoryMib, context, images);
    await context.heldImages.hold({ path: disk.base, digest: disk.baseDigest }, begun.machine.agentDisk);

    await begin("start-vm");
    cleanup.defer("remove the VM's files", () => rm(options.vmFolder, { recursive: true, force: true }));
    await mkdir(options.vmFolder, { mode: 0o711 });
    const cgroup = context.cgroupOf(spec.sandboxId);
    const started = await context.driver.start(
      {
        sandboxId: spec.sandboxId,
        folder: options.vmFolder,
        vcpus: spec.vcpus,
        memoryMib: spec.memoryMib,
        begin: begun.begin,
        disks: {
          root: { base: disk.base, folder: images.diskFolder, layers, sizeMib: disk.sizeMib },
          agentDisk: begun.machine.agentDisk.path,
        },
        network: { namespacePath: slot.namespacePath, tapName: slot.tapName, macAddress: slot.macAddress },
        uid: slot.uid,
        gid: slot.uid,
        ...(cgroup === undefined ? {} : { cgroup }),
        accelerator: context.accelerator,
      },
      signal,
    );
    vm = started;
    isVmmGone = false;
    cleanup.defer("end the VM", async () => {
      await started.kill();
      isVmmGone = true;
    });
    void started.exited.then((exit) => vmEnded.abort(new VmEnded(exit)));

    await begin("keep-vm-record");
    await options.keep({ vm: started.record, layers, machine: begun.machine, baseMemory: begun.baseMemory });

    await begin("await-guest");
    const client = new GuestClient((port, dial) => context.network.dial(slot, port, dial), options.accessToken);
    // A guest that was restored answers at once, and its first answer is its slowest: no need to ask it twice
    if (source.kind === "boot") await client.waitUntilHealthy(context.times.bootTimeoutMs, signal);

    await begin("init-guest");
    await client.untilItAnswers(context.times.bootTimeoutMs, signal, () => options.introduce(client, signal));
    signal.throwIfAborted();
    const versions = { ...begun.versions, vmm: started.record.vmmVersion, accelerator: context.accelerator };
    turns.leave();
    return cleanup.handOver({ vm: started, slot, layers, machine: begun.machine, baseMemory: begun.baseMemory, versions });
  } catch (error) {
    const evidence = await collectEvidence(vm, error);
    await cleanup.run().catch((failure: unknown) => {
      log.error({ err: failure }, "a failed start was not undone completely; the next start of the host agent sweeps what is left");
    });
    throw new StartFailure(toPlatformError(error), evidence?.exit, evidence?.console);
  }
}

/** Ends a VM that is not wanted after all. Its slot stays taken unless the VMM is gone: it must not go to another VM before. */
export async function endStarted({ vm, slot }: StartedVm, context: SandboxContext): Promise<void> {
  await vm.kill();
  await context.network.release(slot);
}

function diskOf(source: StartSource): StartDisk {
  if (source.kind === "boot") return source.disk;
  return savedDisk(source.generation);
}

/** The disk of a generation. */
export function savedDisk({ manifest: { disk } }: Generation): StartDisk {
  return { base: disk.base.path, baseDigest: disk.base.digest, layers: disk.layers.map((layer) => layer.file), sizeMib: disk.sizeMib };
}

/** How the driver is to begin, and which base file the memory begins as. */
async function beginning(source: StartSource, memoryMib: number, context: SandboxContext, images: ImageFolder) {
  if (source.kind === "boot") {
    const { kernel, initramfs, agentDisk } = source.images;
    const kernelArguments = [`roost.dns=${context.network.guestDnsServers.join(",")}`];
    const begin: ColdBoot = { kind: "boot", kernel: kernel.path, initramfs, kernelArguments };
    const versions = { kernel: kernel.version, guest_agent: agentDisk.version };
    return { begin, machine: source.machine, versions, baseMemory: await images.linkBase(await context.zeroMemory(memoryMib)) };
  }
  const { memory, vm: machine, versions } = source.generation.manifest;
  assert(memory !== null, "what is restored has memory");
  const begin: MemoryRestore = {
    kind: "restore",
    baseFile: images.basePath(memory.base.file),
    deviceState: images.filePath(source.generation, memory.deviceState.file),
    fill: (guestMemory) => applyDiff(images.filePath(source.generation, memory.diff.file), guestMemory, memory.diff),
  };
  return { begin, machine, versions, baseMemory: memory.base.file };
}

/** Random: a name is never used again, so that no record can mean another file by it. */
export function newLayerName(): string {
  return `l${randomBytes(8).toString("hex")}.qcow2`;
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

/** What made a start fail, whatever threw it. */
export function asStartFailure(error: unknown): StartFailure {
  if (error instanceof StartFailure) return error;
  const known =
    error instanceof PlatformError
      ? error
      : new PlatformError("sandbox_start_failed", "the sandbox could not be started", { cause: error });
  return new StartFailure(known, undefined, undefined);
}
