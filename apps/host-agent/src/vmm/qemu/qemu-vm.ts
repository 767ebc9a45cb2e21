import { Deferred, isAlive, poll, second, silentLogger, withDeadline, type Logger } from "@roost/kit";

import type { Cgroups } from "../cgroup.ts";
import { consoleLines, readConsole, readFileTail } from "../console.ts";
import { exitConsoleLines, type Vm, type VmExit, type VmRecord } from "../driver.ts";
import { vmLayout, type VmLayout } from "./layout.ts";
import { collectExit, endVmProcesses } from "./qemu-processes.ts";
import { QmpClient } from "./qmp.ts";

/** Bytes of console looked through for its last lines. */
const tailBytesMax = 64 * 1024;
/** Bytes of the launcher's own messages kept. */
const launchLogBytesMax = 4 * 1024;
/** Time a VMM that was told to quit has to flush its disks in `ms`, before it is killed. */
const quitTimeoutMs = 10 * second;
/** Time a VMM whose control connection ended has to be gone in `ms`, before it counts as alive without one. */
const goneTimeoutMs = 500;

export interface QemuVmParts {
  readonly record: VmRecord;
  readonly qmp: QmpClient;
  readonly cgroups: Cgroups;
  readonly log?: Logger;
}

/**
 * A running QEMU. Its end is noticed by the end of its control connection, at once and without polling; a VMM that lives on
 * without one is reconnected to, and ended when it breaks the protocol, because then something else speaks for it.
 */
export class QemuVm implements Vm {
  readonly record: VmRecord;
  readonly #layout: VmLayout;
  readonly #cgroups: Cgroups;
  readonly #log: Logger;
  readonly #exited = new Deferred<VmExit>();
  #qmp: QmpClient;
  #released = false;

  constructor(parts: QemuVmParts) {
    this.record = parts.record;
    this.#layout = vmLayout(parts.record.folder);
    this.#qmp = parts.qmp;
    this.#cgroups = parts.cgroups;
    this.#log = parts.log ?? silentLogger;
    this.#logEvents();
    void this.#watch();
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
    if (await isAlive(this.record.vmm)) process.kill(this.record.vmm.pid, "SIGKILL");
    this.#qmp.close(); // the kernel closes it too, unless the VMM gave it to somebody
    return this.exited;
  }

  release(): void {
    this.#released = true;
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
    this.#exited.resolve(await finishVm(this.record, this.#cgroups, this.#log));
  }

  async #isGone(): Promise<boolean> {
    return poll({ what: "the VMM's end", timeoutMs: goneTimeoutMs, intervalMs: 4 }, async () =>
      (await isAlive(this.record.vmm)) ? undefined : true,
    ).catch(() => false);
  }

  async #reconnect(): Promise<boolean> {
    try {
      this.#qmp = await QmpClient.connect(this.#layout.qmpSocket);
      this.#logEvents();
      return true;
    } catch (error) {
      this.#log.warn({ err: error, sandboxId: this.record.sandboxId }, "could not reconnect to a VMM");
      return false;
    }
  }

  /** Why QEMU ends is in its events: for whoever debugs a guest that reboots or panics. */
  #logEvents(): void {
    this.#qmp.onEvent = (event) => {
      this.#log.debug({ sandboxId: this.record.sandboxId, event: event.event, data: event.data }, "VMM event");
    };
  }
}

/** Tidies up behind a VMM that is gone and tells how it ended. Never rejects: what could not be released is logged. */
export async function finishVm(record: VmRecord, cgroups: Cgroups, log: Logger): Promise<VmExit> {
  const warn = (what: string) => (error: unknown) => {
    log.warn({ err: error, sandboxId: record.sandboxId }, what);
    return undefined;
  };
  const how = await collectExit(record).catch(warn("could not end what a VM left"));
  await endVmProcesses(record).catch(warn("could not end what a VM left"));
  if (record.cgroup !== null) await cgroups.remove(record.cgroup).catch(warn("could not remove the cgroup of a VM"));
  return { exitCode: how?.exitCode ?? null, signal: how?.signal ?? null, consoleTail: await lastWords(vmLayout(record.folder)) };
}

/** The last lines of the console, after what the launcher complained of. */
export async function lastWords(layout: VmLayout): Promise<string[]> {
  const launch = consoleLines(await readFileTail(layout.launchLog, launchLogBytesMax), exitConsoleLines);
  const console = consoleLines(await readConsole(layout.runFolder, tailBytesMax), exitConsoleLines);
  return [...launch, ...console].slice(-exitConsoleLines);
}
