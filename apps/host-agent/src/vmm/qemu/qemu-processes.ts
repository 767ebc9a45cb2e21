import { readdir, readFile } from "node:fs/promises";

import { endProcess, identifyProcess, isAlive, poll, second, type ProcessIdentity } from "@roost/kit";

import { readFileTail } from "../console.ts";
import type { VmExit, VmRecord } from "../driver.ts";
import { exitRecordBytesMax, parseExitRecord } from "../exit-record.ts";
import { vmLayout, type VmLayout } from "./layout.ts";

/** Time the supervisor has to write down an exit in `ms`: it must get CPU time and sync one small file. */
const exitRecordTimeoutMs = 10 * second;
/** Time killed processes of a VM have to be gone in `ms`. */
const groupEndTimeoutMs = 10 * second;

/**
 * QEMU's pid as its supervisor wrote it, checked: the file belongs to the VM's uid, and a pid from it gets signals that
 * root sends. Undefined until there is a child of the supervisor with that pid.
 */
export async function findVmm(layout: VmLayout, supervisorPid: number): Promise<ProcessIdentity | undefined> {
  const pid = /^(\d{1,10})\n$/.exec((await readFileTail(layout.pidFile, 16)).toString("latin1"))?.[1];
  const identity = pid === undefined || Number(pid) === 0 ? undefined : await identifyProcess(Number(pid));
  if (identity === undefined || (await processGroup(identity.pid)) !== supervisorPid) return undefined;
  return identity;
}

/**
 * How a VM whose VMM is gone ended. Waits for the supervisor to write it down and end, and ends it when it does not.
 * Afterwards none of the VM's processes runs.
 */
export async function collectExit(record: VmRecord): Promise<Pick<VmExit, "exitCode" | "signal">> {
  const { exitFile } = vmLayout(record.folder);
  const ended = await poll({ what: "the supervisor's end", timeoutMs: exitRecordTimeoutMs, intervalMs: 4 }, async () =>
    (await isAlive(record.supervisor)) ? undefined : true,
  ).catch(() => false);
  if (!ended) await endVmProcesses(record);
  return parseExitRecord((await readFileTail(exitFile, exitRecordBytesMax)).toString("latin1"));
}

/** Kills what is left of a VM and waits until it is gone. Idempotent. */
export async function endVmProcesses(record: Pick<VmRecord, "vmm" | "supervisor">): Promise<void> {
  // A group's number is only ours while one of its members is known to be.
  const known = (await isAlive(record.supervisor)) || (await processGroup(record.vmm.pid)) === record.supervisor.pid;
  if (known) await endProcessGroup(record.supervisor.pid);
  await endProcess(record.vmm, { graceMs: 0 });
}

/**
 * Kills a process group and waits until no process of it is left. The caller knows that the group is its own.
 * Where nobody reaps orphans (some containers) its dead stay as zombies: those count as gone.
 */
export async function endProcessGroup(group: number): Promise<void> {
  await poll({ what: `end of process group ${group}`, timeoutMs: groupEndTimeoutMs, intervalMs: 4 }, async () => {
    try {
      process.kill(-group, "SIGKILL");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "ESRCH") return true;
      throw error;
    }
    return (await liveProcessesOfGroup(group)) === 0 ? true : undefined;
  });
}

async function liveProcessesOfGroup(group: number): Promise<number> {
  let live = 0;
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name) || (await processGroup(Number(name))) !== group) continue;
    if ((await identifyProcess(Number(name))) !== undefined) live += 1;
  }
  return live;
}

/** Process group of a process; undefined when it is gone. Field 5 of proc_pid_stat(5). */
async function processGroup(pid: number): Promise<number | undefined> {
  try {
    const stat = await readFile(`/proc/${pid}/stat`, "latin1");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[2]);
  } catch {
    return undefined; // gone
  }
}
