import { assert, Deferred, isAlive, poll, second, silentLogger, withDeadline, type Logger, type ProcessIdentity } from "@roost/kit";

import { openProcessMemory } from "../../memory/process-memory.ts";
import type { Cgroups } from "../cgroup.ts";
import { consoleLines, readConsole, readFileTail } from "../console.ts";
import { exitConsoleLines, type GuestMemory, type Vm, type VmExit, type VmRecord } from "../driver.ts";
import { connectControl } from "./control.ts";
import { readStatus, saveDeviceState } from "./device-state.ts";
import { flattenLayers, pushLayer, readLayers } from "./disk-chain.ts";
import { insidePaths, vmLayout, type VmLayout } from "./layout.ts";
import { collectExit, endVmProcesses } from "./qemu-processes.ts";
import type { QmpClient } from "./qmp.ts";
import { StalledDisk } from "./stalled-disk.ts";

/** Bytes of console looked through for its last lines. */
const tailBytesMax = 64 * 1024;
/** Bytes of the launcher's own messages kept. */
const launchLogBytesMax = 4 * 1024;
/** Time a VMM that was told to quit has to flush its disks in `ms`, before it is killed. */
const quitTimeoutMs = 10 * second;
/** Time a VMM has to stop its CPUs and to bring its disk requests to the host's disk in `ms`; a millisecond unless the disk is busy. */
const stopTimeoutMs = 60 * second;
/** Time a VMM whose control connection ended has to be gone in `ms`, before it counts as alive without one. */
const goneTimeoutMs = 500;

export interface QemuVmParts {
  readonly record: VmRecord;
  readonly qmp: QmpClient;
  readonly cgroups: Cgroups;
  readonly log?: Logger;
  /** Layer its disk began with as the top; absent: has to be asked for */
  readonly topLayer?: string;
  /** An earlier process started it */
  readonly isAdopted?: boolean;
}

/**
 * A running QEMU. Its end is noticed by the end of its control connection, at once and without polling; a VMM that lives on
 * without one is reconnected to, and ended when it breaks the protocol, because then something else speaks for it.
 */
export class QemuVm implements Vm {
  #record: VmRecord;
  #layout: VmLayout;
  readonly #cgroups: Cgroups;
  readonly #log: Logger;
  readonly #exited = new Deferred<VmExit>();
  #qmp: QmpClient;
  #released = false;
  #isKilled = false;
  #isFlattening = false;
  /** Layer that takes the guest's writes, when that is known without asking: nobody but us changes it */
  #top: string | undefined;
  readonly #stalledDisk: StalledDisk;

  constructor(parts: QemuVmParts) {
    this.#record = parts.record;
    this.#layout = vmLayout(parts.record.folder);
    this.#qmp = parts.qmp;
    this.#cgroups = parts.cgroups;
    this.#top = parts.topLayer;
    this.#log = parts.log ?? silentLogger;
    this.#stalledDisk = new StalledDisk(() => this.#qmp, this.#log);
    if (parts.isAdopted === true) this.#stalledDisk.checkSoon(); // it may have stalled while nobody listened
    this.#hearEvents();
    void this.#watch();
  }

  get record(): VmRecord {
    return this.#record;
  }

  get exited(): Promise<VmExit> {
    return this.#exited.promise;
  }

  /** QEMU's control protocol, for what the driver does beyond the port. */
  get qmp(): QmpClient {
    return this.#qmp;
  }

  async console(bytesMax: number): Promise<Buffer> {
    return readConsole(this.#layout.runFolder, bytesMax);
  }

  async consoleTail(lines: number): Promise<string[]> {
    return consoleLines(await this.console(tailBytesMax), lines);
  }

  async stop(): Promise<void> {
    this.#stalledDisk.heldByUs = true;
    await this.#qmp.execute("stop", {}, { timeoutMs: stopTimeoutMs });
  }

  async continue(): Promise<void> {
    this.#stalledDisk.heldByUs = false;
    await this.#qmp.execute("cont");
  }

  async isStopped(): Promise<boolean> {
    return !(await readStatus(this.#qmp)).running;
  }

  async saveDeviceState(path: string): Promise<void> {
    await saveDeviceState(this.#qmp, this.#layout, path);
  }

  async openMemory(): Promise<GuestMemory> {
    return openGuestMemory(this.#record.vmm);
  }

  async pushLayer(layer: string): Promise<void> {
    assert(!this.#isFlattening, "a disk whose layers are being copied gets no new one");
    const top = this.#top ?? (await this.layers()).at(-1);
    assert(top !== undefined, "only a VM with disks gets layers");
    if (top === layer) return;
    this.#top = undefined; // until it is known how this ends
    await pushLayer(this.#qmp, top, layer);
    this.#top = layer;
  }

  async layers(): Promise<string[]> {
    const layers = await readLayers(this.#qmp);
    this.#top = layers.at(-1);
    return layers;
  }

  async flattenLayers(signal?: AbortSignal): Promise<void> {
    assert(!this.#isFlattening, "the layers of a disk are copied by one at a time");
    this.#isFlattening = true;
    try {
      await flattenLayers(this.#qmp, signal);
    } finally {
      this.#isFlattening = false;
    }
  }

  moveTo(place: { readonly sandboxId: string; readonly folder: string }): VmRecord {
    this.#record = { ...this.#record, sandboxId: place.sandboxId, folder: place.folder };
    this.#layout = vmLayout(place.folder);
    return this.#record;
  }

  async shutdown(options: { readonly graceMs: number }): Promise<VmExit> {
    if (options.graceMs > 0) {
      await this.#ask("system_powerdown");
      const exit = await this.#exitWithin(options.graceMs);
      if (exit !== undefined) return exit;
    }
    await this.#ask("quit");
    return (await this.#exitWithin(quitTimeoutMs)) ?? this.kill();
  }

  async kill(): Promise<VmExit> {
    if (await isAlive(this.record.supervisor)) {
      // With all that is around it: nobody need write down how it ended, it was us
      this.#isKilled = true;
      process.kill(-this.record.supervisor.pid, "SIGKILL");
    } else if (await isAlive(this.record.vmm)) process.kill(this.record.vmm.pid, "SIGKILL");
    this.#qmp.close(); // the kernel closes it too, unless the VMM gave it to somebody
    return this.exited;
  }

  release(): void {
    this.#released = true;
    this.#stalledDisk.close();
    this.#qmp.close();
  }

  /** A VMM that no longer takes commands is about to end or gets killed next: its refusal changes nothing. */
  async #ask(command: string): Promise<void> {
    await this.#qmp.execute(command).catch((error: unknown) => this.#log.debug({ err: error, command }, "the VMM did not take a command"));
  }

  async #exitWithin(timeoutMs: number): Promise<VmExit | undefined> {
    return withDeadline("end of the VM", timeoutMs, this.exited).catch(() => undefined); // only the deadline rejects
  }

  async #watch(): Promise<void> {
    for (;;) {
      const reason = await this.#qmp.closed;
      if (this.#released) return;
      if (!reason.violation && (await this.#isGone())) break;
      if (reason.violation || !(await this.#reconnect())) {
        this.#log.error({ err: reason, sandboxId: this.record.sandboxId }, "ending a VM whose VMM does not speak its protocol");
        if (await isAlive(this.record.vmm)) process.kill(this.record.vmm.pid, "SIGKILL");
        break;
      }
    }
    this.#stalledDisk.close();
    this.#exited.resolve(await finishVm(this.record, this.#cgroups, this.#log, { isKilled: this.#isKilled }));
  }

  async #isGone(): Promise<boolean> {
    return poll({ what: "the VMM's end", timeoutMs: goneTimeoutMs, intervalMs: 4 }, async () =>
      (await isAlive(this.record.vmm)) ? undefined : true,
    ).catch(() => false);
  }

  async #reconnect(): Promise<boolean> {
    try {
      this.#qmp = await connectControl(this.#record);
      this.#hearEvents();
      return true;
    } catch (error) {
      this.#log.warn({ err: error, sandboxId: this.record.sandboxId }, "could not reconnect to a VMM");
      return false;
    }
  }

  /** Why QEMU ends is in its events: for whoever debugs a guest that reboots or panics. */
  #hearEvents(): void {
    this.#qmp.onEvent = (event) => {
      this.#log.debug({ sandboxId: this.record.sandboxId, event: event.event, data: event.data }, "VMM event");
      this.#stalledDisk.onEvent(event);
    };
  }
}

/**
 * The memory of the guest of a VMM. The base file is looked at through the VMM's own root folder: the host may have renamed or removed its names
 * since, and what is mapped is what counts.
 */
export async function openGuestMemory(vmm: ProcessIdentity): Promise<GuestMemory> {
  return openProcessMemory({ ...vmm, baseFile: `/proc/${vmm.pid}/root${insidePaths.memory}` });
}

/** Tidies up behind a VMM that is gone and tells how it ended. Never rejects: what could not be released is logged. */
export async function finishVm(
  record: VmRecord,
  cgroups: Cgroups,
  log: Logger,
  options: { readonly isKilled?: boolean } = {},
): Promise<VmExit> {
  const warn = (what: string) => (error: unknown) => {
    log.warn({ err: error, sandboxId: record.sandboxId }, what);
    return undefined;
  };
  const how =
    options.isKilled === true
      ? { exitCode: null, signal: "SIGKILL" }
      : await collectExit(record).catch(warn("could not end what a VM left"));
  const isGone = options.isKilled === true && (await goneWithin(record, goneTimeoutMs));
  if (!isGone) await endVmProcesses(record).catch(warn("could not end what a VM left"));
  if (record.cgroup !== null) await cgroups.remove(record.cgroup).catch(warn("could not remove the cgroup of a VM"));
  return { exitCode: how?.exitCode ?? null, signal: how?.signal ?? null, consoleTail: await lastWords(vmLayout(record.folder)) };
}

/** The last lines of the console, after what the launcher complained of. */
export async function lastWords(layout: VmLayout): Promise<string[]> {
  const launch = consoleLines(await readFileTail(layout.launchLog, launchLogBytesMax), exitConsoleLines);
  const console = consoleLines(await readConsole(layout.runFolder, tailBytesMax), exitConsoleLines);
  return [...launch, ...console].slice(-exitConsoleLines);
}

/** Whether VMM and supervisor, which were killed, are gone within `timeoutMs`. */
async function goneWithin(record: VmRecord, timeoutMs: number): Promise<boolean> {
  return poll({ what: "the end of a VM that was killed", timeoutMs, intervalMs: 1 }, async () =>
    (await isAlive(record.vmm)) || (await isAlive(record.supervisor)) ? undefined : true,
  ).catch(() => false);
}
