import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:fs";
import { chown, mkdir, open, readFile, rm, stat } from "node:fs/promises";
import { isAbsolute } from "node:path";

import { PlatformError } from "@roost/contract";
import {
  assert,
  Cleanup,
  identifyProcess,
  isAlive,
  MiB,
  must,
  poll,
  run,
  second,
  silentLogger,
  withDeadline,
  type Logger,
  type ProcessIdentity,
} from "@roost/kit";

import { Cgroups, type CgroupLimits } from "../cgroup.ts";
import type { Vm, VmExit, VmmDriver, VmRecord, VmSpec } from "../driver.ts";
import { qemuArguments, qemuProgram, translationBufferMib } from "./command.ts";
import { launchCommand, type LaunchDevice } from "./launch.ts";
import { vmLayout, type VmLayout } from "./layout.ts";
import { chooseMachine, readHostTscKhz } from "./machine.ts";
import { endProcessGroup, endVmProcesses, findVmm } from "./qemu-processes.ts";
import { finishVm, lastWords, QemuVm } from "./qemu-vm.ts";
import { QmpClient } from "./qmp.ts";
import { ensureZeroMemory } from "./zero-memory.ts";

/** Oldest QEMU whose private memory mappings cannot reach the file behind them (`rom=off`). */
const versionMin = [8, 2] as const;
/** Time from the launcher's start to the first QMP answer in `ms`: 0.1 s alone, seconds when many start at once. */
const startTimeoutMs = 30 * second;
/** Time a running VMM has to take an adopting connection in `ms`. */
const adoptTimeoutMs = 10 * second;
/** What QEMU itself needs at most beside the guest's memory and translated code in `MiB`. */
const overheadMib = 256;
/** CPUs beyond the guest's own: QEMU's main loop and its disk workers. */
const overheadCpus = 0.5;
/** QEMU's threads and the supervisor's processes. */
const pidsMax = 128;
/** What a qcow2 file may hold beside the disk's content in `MiB`: tables and frozen clusters. */
const overlayOverheadMib = 1024;

export interface QemuDriverOptions {
  /** Folder for files that all VMs share, such as base files of zeros; absolute, root's */
  readonly memoryFolder: string;
  readonly log?: Logger;
  /** Frequency of the host's time stamp counter in `kHz`; null: unknown. Default: what the host's kernel says */
  readonly tscKhz?: number | null;
}

/** Starts QEMU processes that run unprivileged and detached. See `launch.ts` for how. */
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
    await using cleanup = new Cleanup();

    cleanup.defer("remove what the VMM left", () => removeFiles(layout));
    await mkdir(layout.rootFolder, { recursive: true });
    await mkdir(layout.runFolder, { recursive: true, mode: 0o700 });
    await chown(layout.runFolder, spec.uid, spec.gid);
    const cgroups = await this.#cgroups();
    const cgroup = spec.cgroup;
    if (cgroup !== undefined) cleanup.defer("remove the cgroup", () => cgroups.remove(cgroup));
    const cgroupProcs = cgroup === undefined ? [] : await cgroups.create(cgroup, cgroupLimits(spec));
    const launch = await this.#launchPlan(spec, layout, cgroupProcs);

    const child = await spawnDetached(launchCommand(launch), layout);
    const group = must(child.pid, "the pid of a child that was spawned");
    cleanup.defer("end the VMM", () => endProcessGroup(group));
    const started = await connectToStarted(child, layout, signal).catch(async (error: unknown) => {
      signal?.throwIfAborted();
      throw await startError(error, layout);
    });
    cleanup.defer("close the control connection", () => started.qmp.close());
    signal?.throwIfAborted();

    const record: VmRecord = {
      formatVersion: 1,
      driver: this.name,
      vmmVersion,
      accelerator: spec.accelerator,
      sandboxId: spec.sandboxId,
      folder: spec.folder,
      bootId: await readBootId(),
      vmm: started.vmm,
      supervisor: started.supervisor,
      cgroup: cgroup ?? null,
      timeStartedMs: Date.now(),
    };
    child.unref();
    return cleanup.handOver(new QemuVm({ record, qmp: started.qmp, cgroups, log: this.#log }));
  }

  async adopt(record: VmRecord): Promise<Vm | VmExit> {
    const cgroups = await this.#cgroups();
    if (record.bootId !== (await readBootId()))
      return { exitCode: null, signal: null, consoleTail: await lastWords(vmLayout(record.folder)) };
    const deadline = { what: "the VMM's answer", timeoutMs: adoptTimeoutMs, intervalMs: 50 };
    const found = await poll(deadline, async () => {
      if (!(await isAlive(record.vmm))) return "gone" as const;
      return QmpClient.connect(vmLayout(record.folder).qmpSocket);
    }).catch((error: unknown) => {
      throw new PlatformError("guest_unreachable", "the sandbox runs but its VMM does not answer", { cause: error });
    });
    if (found === "gone") return finishVm(record, cgroups, this.#log);
    return new QemuVm({ record, qmp: found, cgroups, log: this.#log });
  }

  async destroy(record: VmRecord): Promise<void> {
    if (record.bootId === (await readBootId())) await endVmProcesses(record);
    if (record.cgroup !== null) await (await this.#cgroups()).remove(record.cgroup);
  }

  async #launchPlan(spec: VmSpec, layout: VmLayout, cgroupProcs: readonly string[]) {
    const machine = chooseMachine(spec.accelerator, spec.accelerator === "tcg" ? await this.#tscKhz() : undefined);
    const memoryFile = await ensureZeroMemory(this.#options.memoryFolder, spec.memoryMib);
    const devices: LaunchDevice[] = [{ name: "null", major: 1, minor: 3 }];
    if (spec.network !== null) devices.push({ name: "net/tun", major: 10, minor: 200 });
    if (spec.accelerator === "kvm") devices.push({ name: "kvm", major: 10, minor: 232 });
    return {
      layout,
      namespacePath: spec.network?.namespacePath ?? null,
      uid: spec.uid,
      gid: spec.gid,
      cgroupProcs,
      readOnlyFiles: [
        spec.kernel,
        spec.initramfs,
        memoryFile,
        ...(spec.disks === null ? [] : [spec.disks.agentDisk, ...spec.disks.rootOverlay.backingFiles]),
      ],
      writableFiles: spec.disks === null ? [] : [spec.disks.rootOverlay.path],
      devices,
      fileSizeMibMax: (spec.disks?.rootOverlay.sizeMib ?? 0) + overlayOverheadMib,
      command: [qemuProgram, ...qemuArguments(spec, layout, machine, memoryFile)],
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
  const paths = [spec.folder, spec.kernel, spec.initramfs];
  if (spec.disks !== null) paths.push(spec.disks.agentDisk, spec.disks.rootOverlay.path, ...spec.disks.rootOverlay.backingFiles);
  for (const path of paths) assert(isAbsolute(path) && !path.includes("\n"), "paths of a VM are absolute");
  if (spec.network !== null) {
    assert(/^[a-zA-Z0-9._-]{1,15}$/.test(spec.network.tapName), "a tap's name is an interface name");
    assert(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/.test(spec.network.macAddress), "a MAC address is six octets");
  }
}

/** The launcher, in a session of its own; what it says before QEMU runs goes to a file that no guest can write to. */
async function spawnDetached(command: readonly [string, ...string[]], layout: VmLayout): Promise<ChildProcess> {
  await using log = await open(layout.launchLog, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
  const [program, ...args] = command;
  const child = spawn(program, args, { detached: true, stdio: ["ignore", log.fd, log.fd], cwd: "/", env: { PATH: "/usr/sbin:/usr/bin" } });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  return child;
}

interface StartedVmm {
  readonly vmm: ProcessIdentity;
  readonly supervisor: ProcessIdentity;
  readonly qmp: QmpClient;
}

async function connectToStarted(child: ChildProcess, layout: VmLayout, signal: AbortSignal | undefined): Promise<StartedVmm> {
  const supervisorPid = must(child.pid, "the pid of a child that was spawned");
  const ended = new AbortController();
  child.once("exit", () => ended.abort(new Error("the VMM ended at once")));
  const signals = signal === undefined ? [ended.signal] : [ended.signal, signal];
  const deadline = { timeoutMs: startTimeoutMs, intervalMs: 4, signal: AbortSignal.any(signals) };
  const vmm = await poll({ what: "the start of the VMM", ...deadline }, () => findVmm(layout, supervisorPid));
  const supervisor = must(await identifyProcess(supervisorPid), "a supervisor whose child runs");
  const qmp = await poll({ what: "the VMM's first answer", ...deadline }, async () => {
    await stat(layout.qmpSocket); // cheaper than a connection that fails
    return QmpClient.connect(layout.qmpSocket, { timeoutMs: startTimeoutMs });
  });
  return { vmm, supervisor, qmp };
}

async function startError(cause: unknown, layout: VmLayout): Promise<PlatformError> {
  const said = (await lastWords(layout)).slice(-8).join("\n");
  const how = describe(cause);
  return new PlatformError("sandbox_start_failed", "the VM did not start", { detail: said === "" ? how : `${how}: ${said}`, cause });
}

/** An abort is only how the wait was ended; what it was ended for is its cause. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === "AbortError" && error.cause instanceof Error ? error.cause.message : error.message;
}

async function removeFiles(layout: VmLayout): Promise<void> {
  for (const path of [layout.runFolder, layout.rootFolder, layout.launchLog]) await rm(path, { recursive: true, force: true });
}

async function readBootId(): Promise<string> {
  return (await readFile("/proc/sys/kernel/random/boot_id", "utf8")).trim();
}

async function readVersion(): Promise<string> {
  const output = await run([qemuProgram, "--version"], { timeoutMs: 10 * second }).catch((error: unknown) => {
    throw new PlatformError("sandbox_start_failed", "this host cannot run sandboxes: QEMU is not installed", { cause: error });
  });
  const [, version, major, minor] = /^QEMU emulator version ((\d+)\.(\d+)\S*.*)$/m.exec(output) ?? [];
  const isOld = Number(major) < versionMin[0] || (Number(major) === versionMin[0] && Number(minor) < versionMin[1]);
  if (version === undefined || isOld) {
    throw new PlatformError("sandbox_start_failed", `this host cannot run sandboxes: QEMU ${versionMin.join(".")} or newer is needed`, {
      detail: output.split("\n")[0] ?? "",
    });
  }
  return `QEMU ${version}`;
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
