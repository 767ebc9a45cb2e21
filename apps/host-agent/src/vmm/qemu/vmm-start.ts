import { spawn, type ChildProcess } from "node:child_process";
import { constants } from "node:fs";
import { open, stat } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { identifyProcess, must, poll, second, type ProcessIdentity } from "@roost/kit";

import type { MemoryRestore } from "../driver.ts";
import { loadDeviceState } from "./device-state.ts";
import type { VmLayout } from "./layout.ts";
import { findVmm } from "./qemu-processes.ts";
import { lastWords, openGuestMemory } from "./qemu-vm.ts";
import { QmpClient } from "./qmp.ts";

/** Time from the launcher's start to the first QMP answer in `ms`: 0.1 s alone, seconds when many start at once. */
const startTimeoutMs = 30 * second;

/** The launcher, in a session of its own; what it says before QEMU runs goes to a file that no guest can write to. */
export async function spawnDetached(command: readonly [string, ...string[]], layout: VmLayout): Promise<ChildProcess> {
  await using log = await open(layout.launchLog, constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC, 0o600);
  const [program, ...args] = command;
  const child = spawn(program, args, { detached: true, stdio: ["ignore", log.fd, log.fd], cwd: "/", env: { PATH: "/usr/sbin:/usr/bin" } });
  await new Promise<void>((resolve, reject) => {
    child.once("spawn", resolve);
    child.once("error", reject);
  });
  return child;
}

export interface StartedVmm {
  readonly vmm: ProcessIdentity;
  readonly supervisor: ProcessIdentity;
  readonly qmp: QmpClient;
}

/** Waits until a VMM that was spawned takes commands; rejects when it ends instead. */
export async function connectToStarted(child: ChildProcess, layout: VmLayout, signal: AbortSignal | undefined): Promise<StartedVmm> {
  const supervisorPid = must(child.pid, "the pid of a child that was spawned");
  const ended = new AbortController();
  child.once("exit", () => ended.abort(new Error("the VMM ended at once")));
  const signals = signal === undefined ? [ended.signal] : [ended.signal, signal];
  const deadline = { timeoutMs: startTimeoutMs, intervalMs: 2, signal: AbortSignal.any(signals) };
  const qmp = await poll({ what: "the VMM's first answer", ...deadline }, async () => {
    await stat(layout.qmpSocket); // cheaper than a connection that fails
    return QmpClient.connect(layout.qmpSocket, { timeoutMs: startTimeoutMs });
  });
  try {
    // Its supervisor writes the pid down while QEMU still begins
    const vmm = await poll({ what: "the pid of the VMM", ...deadline }, () => findVmm(layout, supervisorPid));
    return { vmm, supervisor: must(await identifyProcess(supervisorPid), "a supervisor whose child runs"), qmp };
  } catch (error) {
    qmp.close();
    throw error;
  }
}

/** Gives a VMM that waits for it its guest's memory and devices; the guest runs when this resolves. */
export async function restore(started: StartedVmm, begin: MemoryRestore, layout: VmLayout, signal: AbortSignal | undefined): Promise<void> {
  const memory = await openGuestMemory(started.vmm);
  try {
    await begin.fill(memory);
  } finally {
    memory.close();
  }
  signal?.throwIfAborted();
  await loadDeviceState(started.qmp, layout, signal);
}

/** Why a VMM did not start, with the last that was said. */
export async function startError(cause: unknown, layout: VmLayout): Promise<PlatformError> {
  const said = (await lastWords(layout)).slice(-8).join("\n");
  const how = describe(cause);
  return new PlatformError("sandbox_start_failed", "the VM did not start", { detail: said === "" ? how : `${how}: ${said}`, cause });
}

/** An abort is only how the wait was ended; what it was ended for is its cause. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  return error.name === "AbortError" && error.cause instanceof Error ? error.cause.message : error.message;
}
