import { readdir, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { endProcess, identifyProcess, poll, type Logger } from "@roost/kit";

import type { UidRange } from "../network/network.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

/**
 * Ends processes of our VMMs' uids that belong to no adopted VM: a crash between a VMM's start and the writing of its
 * record leaves one. Recognized by uid: command lines can be anything, and an operator may read a console below our folder.
 */
export async function sweepProcesses(range: UidRange, adopted: readonly SandboxRecord[], log: Logger): Promise<void> {
  const keep = new Set(adopted.flatMap(({ vm }) => (vm === null ? [] : [vm.vmm.pid, vm.supervisor.pid])));
  const keepUids = new Set<number>();
  for (const pid of keep) keepUids.add((await uidOf(pid)) ?? -1);
  for (const name of await readdir("/proc")) {
    const pid = Number(name);
    if (!Number.isSafeInteger(pid) || keep.has(pid)) continue;
    const uid = await uidOf(pid);
    // Helpers of a VM that lives run under its uid, and no other VM does
    if (uid === undefined || uid < range.first || uid >= range.first + range.count || keepUids.has(uid)) continue;
    const identity = await identifyProcess(pid);
    if (identity === undefined) continue;
    log.warn({ pid, uid }, "ending a process of a VM that no sandbox owns");
    await endProcess(identity, { graceMs: 0 });
  }
}

async function uidOf(pid: number): Promise<number | undefined> {
  return stat(`/proc/${pid}`).then(
    ({ uid }) => uid,
    () => undefined, // it ended meanwhile
  );
}

/** Removes our cgroups that no adopted VM uses, in every hierarchy that is mounted in the usual places. */
export async function sweepCgroups(prefix: string, adopted: readonly SandboxRecord[], log: Logger): Promise<void> {
  const keep = new Set(adopted.map((record) => record.vm?.cgroup));
  const hierarchies = ["/sys/fs/cgroup", ...(await readdir("/sys/fs/cgroup").catch(() => [])).map((name) => join("/sys/fs/cgroup", name))];
  for (const hierarchy of hierarchies) {
    const names = await readdir(hierarchy).catch(() => []); // a file, or a hierarchy that is not ours to see
    for (const name of names.filter((name) => name.startsWith(prefix) && !keep.has(name))) {
      await removeCgroup(join(hierarchy, name)).catch((error: unknown) => {
        log.warn({ err: error, cgroup: join(hierarchy, name) }, "a cgroup that no sandbox owns could not be removed");
      });
    }
  }
}

/** Time the last process of a cgroup may take to leave it after its death in `ms`: a zombie stays in until whoever inherited it reaps it. */
const leaveTimeoutMs = 5_000;

async function removeCgroup(folder: string): Promise<void> {
  await poll({ what: `removal of ${folder}`, timeoutMs: leaveTimeoutMs, intervalMs: 10 }, async () => {
    await rmdir(folder);
    return true;
  });
}
