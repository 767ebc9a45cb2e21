import { chown, mkdir, readFile, rm } from "node:fs/promises";
import { isAbsolute } from "node:path";

import { PlatformError } from "@roost/contract";
import { assert, Cleanup, isAlive, MiB, must, poll, second, silentLogger, withDeadline, type Logger } from "@roost/kit";

import { Cgroups, type CgroupLimits } from "../cgroup.ts";
import type { Accelerator, Vm, VmExit, VmFingerprint, VmmDriver, VmRecord, VmSpec } from "../driver.ts";
import { endJobs } from "./block-jobs.ts";
import { agentDescriptor, baseDescriptor, isLayerName } from "./block-nodes.ts";
import { cpuModel, qemuArguments, qemuProgram, translationBufferMib, vmmName } from "./command.ts";
import { connectControl } from "./control.ts";
import { placeDeviceState } from "./device-state.ts";
import { hostCpuDigest } from "./host-cpu.ts";
import { confine, type Confinement } from "./confinement.ts";
import { insidePaths, vmLayout, type VmLayout } from "./layout.ts";
import { chooseMachine, readHostTscKhz } from "./machine.ts";
import { endProcessGroup, endVmProcesses } from "./qemu-processes.ts";
import { readVersion } from "./qemu-version.ts";
import { finishVm, lastWords, QemuVm } from "./qemu-vm.ts";
import { ensureRootSkeleton } from "./root-skeleton.ts";
import { supervisedCommand } from "./supervisor.ts";
import { connectToStarted, restore, spawnDetached, startError } from "./vmm-start.ts";
import { ensureZeroMemory } from "./zero-memory.ts";

/** Time a running VMM has to take an adopting connection in `ms`. */
const adoptTimeoutMs = 10 * second;
/** What QEMU itself needs at most beside the guest's memory and translated code in `MiB`. */
const overheadMib = 256;
/** CPUs beyond the guest's own: QEMU's main loop and its disk workers. */
const overheadCpus = 0.5;
/** QEMU's threads and the supervisor's processes. */
const pidsMax = 128;
/** What a qcow2 file may hold beside the disk's content in `MiB`: tables and frozen clusters. */
const layerOverheadMib = 1024;

export interface QemuDriverOptions {
  /** Folder for files that all VMs share, such as base files of zeros; absolute, root's */
  readonly memoryFolder: string;
  readonly log?: Logger;
  /** Frequency of the host's time stamp counter in `kHz`; null: unknown. Default: what the host's kernel says */
  readonly tscKhz?: number | null;
}

/** Starts QEMU processes that run unprivileged and detached. See `confinement.ts` for how. */
export class QemuDriver implements VmmDriver {
  readonly name = "qemu";
  readonly #options: QemuDriverOptions;
  readonly #log: Logger;
  readonly #version = once(readVersion);
  readonly #tscKhz = once(async () => (this.#options.tscKhz === undefined ? readHostTscKhz() : (this.#options.tscKhz ?? undefined)));
  readonly #cgroups = once(() => Cgroups.probe());

  constructor(options: QemuDriverOptions) {
    assert(isAbsolute(options.memoryFolder), "the memory folder is absolute");
    this.#options = options;
    this.#log = options.log ?? silentLogger;
  }

  async version(): Promise<string> {
    return this.#version();
  }

  async start(spec: VmSpec, signal?: AbortSignal): Promise<Vm> {
    signal?.throwIfAborted();
    checkSpec(spec);
    const vmmVersion = await this.version();
    const layout = vmLayout(spec.folder);
    const cgroups = await this.#cgroups();
    await using cleanup = new Cleanup();

    cleanup.defer("remove what the VMM left", () => removeFiles(layout));
    await mkdir(layout.runFolder, { recursive: true, mode: 0o700 });
    await chown(layout.runFolder, spec.uid, spec.gid);
    if (spec.begin.kind === "restore") placeDeviceState(layout, spec.begin.deviceState);
    const cgroup = spec.cgroup;
    if (cgroup !== undefined) cleanup.defer("remove the cgroup", () => cgroups.remove(cgroup));
    const cgroupProcs = cgroup === undefined ? [] : await cgroups.create(cgroup, cgroupLimits(spec));
    if (cgroup !== undefined) cgroups.anticipateJoin(); // not earlier: meanwhile no cgroup can be made
    const confinement = await this.#confinement(spec, layout, cgroupProcs);

    const child = await spawnDetached(await confine(confinement), layout);
    const group = must(child.pid, "the pid of a child that was spawned");
    cleanup.defer("end the VMM", () => endProcessGroup(group));
    const started = await connectToStarted(child, layout, signal).catch(async (error: unknown) => {
      signal?.throwIfAborted();
      throw await startError(error, layout);
    });
    cleanup.defer("close the control connection", () => started.qmp.close());
    signal?.throwIfAborted();
    if (spec.begin.kind === "restore") {
      await restore(started, spec.begin, layout, signal).catch(async (error: unknown) => {
        signal?.throwIfAborted();
        throw error instanceof PlatformError ? error : await startError(error, layout);
      });
    }

    const record: VmRecord = {
      formatVersion: 1,
      driver: this.name,
      vmmVersion,
      accelerator: spec.accelerator,
      sandboxId: spec.sandboxId,
      folder: spec.folder,
      bootId: await readBootId(),
      vmm: started.vmm,
      vmmName: vmmName(spec),
      supervisor: started.supervisor,
      cgroup: cgroup ?? null,
      timeStartedMs: Date.now(),
    };
    child.unref();
    const topLayer = spec.disks?.root.layers.at(-1);
    const parts = { record, qmp: started.qmp, cgroups, log: this.#log, ...(topLayer === undefined ? {} : { topLayer }) };
    return cleanup.handOver(new QemuVm(parts));
  }

  async fingerprint(accelerator: Accelerator): Promise<VmFingerprint> {
    const tscKhz = accelerator === "tcg" ? await this.#tscKhz() : undefined;
    // Emulated guests see the host's time stamp counter. Its frequency is measured at each boot of the host, so its last digits mean nothing
    const own =
      accelerator === "kvm" ? await hostCpuDigest() : tscKhz === undefined ? "tsc=unknown" : `tsc=${Math.round(tscKhz / 1_000)}MHz`;
    return {
      vmm: this.name,
      vmmVersion: await this.version(),
      accelerator,
      machine: chooseMachine(accelerator, tscKhz).options,
      cpu: `${cpuModel(accelerator)} ${own}`,
    };
  }

  async adopt(record: VmRecord): Promise<Vm | VmExit> {
    const cgroups = await this.#cgroups();
    if (record.bootId !== (await readBootId()))
      return { exitCode: null, signal: null, consoleTail: await lastWords(vmLayout(record.folder)) };
    const deadline = { what: "the VMM's answer", timeoutMs: adoptTimeoutMs, intervalMs: 50 };
    const found = await poll(deadline, async () => {
      if (!(await isAlive(record.vmm))) return "gone" as const;
      return connectControl(record);
    }).catch((error: unknown) => {
      throw new PlatformError("guest_unreachable", "the sandbox runs but its VMM does not answer", { cause: error });
    });
    if (found === "gone") return finishVm(record, cgroups, this.#log);
    await endJobs(found).catch((error: unknown) => {
      found.close();
      throw new PlatformError("guest_unreachable", "the sandbox runs but its VMM does not answer", { cause: error });
    });
    return new QemuVm({ record, qmp: found, cgroups, log: this.#log, isAdopted: true });
  }

  async destroy(record: VmRecord): Promise<void> {
    if (record.bootId === (await readBootId())) await endVmProcesses(record);
    if (record.cgroup !== null) await (await this.#cgroups()).remove(record.cgroup);
  }

  async #confinement(spec: VmSpec, layout: VmLayout, cgroupProcs: readonly string[]): Promise<Confinement> {
    const { begin, disks } = spec;
    const machine = chooseMachine(spec.accelerator, spec.accelerator === "tcg" ? await this.#tscKhz() : undefined);
    const memoryFile = begin.kind === "boot" ? await ensureZeroMemory(this.#options.memoryFolder, spec.memoryMib) : begin.baseFile;
    const readOnly = (source: string, target: string) => ({ source, target, writable: false });
    return {
      network:
        spec.network?.namespacePath === undefined || spec.network.namespacePath === null ? null : { path: spec.network.namespacePath },
      uid: spec.uid,
      gid: spec.gid,
      cgroupProcs,
      rootSkeleton: await ensureRootSkeleton(this.#options.memoryFolder, { kvm: spec.accelerator === "kvm" }),
      mountTable: layout.mountTable,
      mounts: [
        { source: layout.runFolder, target: insidePaths.run, writable: true },
        readOnly(memoryFile, insidePaths.memory),
        ...(begin.kind === "boot" ? [readOnly(begin.kernel, insidePaths.kernel), readOnly(begin.initramfs, insidePaths.initramfs)] : []),
        ...(disks === null ? [] : [{ source: disks.root.folder, target: insidePaths.disk, writable: true }]),
      ],
      descriptors:
        disks === null
          ? []
          : [
              { descriptor: baseDescriptor, path: disks.root.base },
              { descriptor: agentDescriptor, path: disks.agentDisk },
            ],
      fileSizeMibMax: (disks?.root.sizeMib ?? 0) + layerOverheadMib,
      endsWithParent: false,
      command: supervisedCommand([qemuProgram, ...qemuArguments(spec, machine)]),
    };
  }
}

function cgroupLimits(spec: VmSpec): CgroupLimits {
  const memoryMib = spec.memoryMib + overheadMib + (spec.accelerator === "tcg" ? translationBufferMib : 0);
  return { memoryBytesMax: memoryMib * MiB, cpusMax: spec.vcpus + overheadCpus, pidsMax: pidsMax + spec.vcpus };
}

/** Callers check what users ask for; what arrives here wrong is a bug of ours. */
function checkSpec(spec: VmSpec): void {
  assert(/^[a-z0-9]{1,40}$/.test(spec.sandboxId), "a sandbox id is lower-case letters and digits");
  assert(spec.uid > 0 && spec.gid > 0, "a VMM does not run as root");
  assert(spec.vcpus >= 1 && spec.memoryMib >= 1, "a VM has CPUs and memory");
  const paths = [spec.folder];
  if (spec.begin.kind === "boot") paths.push(spec.begin.kernel, spec.begin.initramfs);
  else paths.push(spec.begin.baseFile, spec.begin.deviceState);
  if (spec.disks !== null) {
    paths.push(spec.disks.agentDisk, spec.disks.root.base, spec.disks.root.folder);
    assert(spec.disks.root.layers.length > 0, "a disk has a top layer");
    for (const layer of spec.disks.root.layers) assert(isLayerName(layer), "layers are plain file names");
  }
  for (const path of paths) assert(isAbsolute(path) && !path.includes("\n"), "paths of a VM are absolute");
  if (spec.network !== null) {
    assert(/^[a-zA-Z0-9._-]{1,15}$/.test(spec.network.tapName), "a tap's name is an interface name");
    assert(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(spec.network.macAddress), "a MAC address is six octets");
  }
}

async function removeFiles(layout: VmLayout): Promise<void> {
  for (const path of [layout.runFolder, layout.mountTable, layout.launchLog]) await rm(path, { recursive: true, force: true });
}

async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

/** Calls `make` on first use; a failure is not kept. */
function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined;
  return () => {
    made ??= withDeadline("a look at this host", 30 * second, make()).catch((error: unknown) => {
      made = undefined;
      throw error;
    });
    return made;
  };
}
