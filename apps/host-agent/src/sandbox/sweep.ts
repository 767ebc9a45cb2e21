import { readdir, readFile, rmdir, stat } from "node:fs/promises";
import { join } from "node:path";

import { endProcess, identifyProcess, type Logger } from "@roost/kit";

import type { UidRange } from "../network/network.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

const cgroupRoots = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] as const;

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

/** Removes the cgroups below our own that no adopted VM uses; our own too when it is empty then. */
export async function sweepCgroups(parent: string, adopted: readonly SandboxRecord[], log: Logger): Promise<void> {
  const keep = new Set(adopted.map((record) => record.spec.sandboxId));
  for (const root of cgroupRoots) {
    const folders = [root, ...(await readdir(root).catch(() => [])).map((name) => join(root, name))].map((folder) => join(folder, parent));
    for (const folder of folders) await sweepCgroup(folder, keep, log);
  }
}

async function sweepCgroup(folder: string, keep: ReadonlySet<string>, log: Logger): Promise<void> {
  const children = await readdir(folder, { withFileTypes: true }).catch(() => undefined); // not mounted here, or none of ours
  if (children === undefined) return;
  let kept = 0;
  for (const child of children) {
    if (!child.isDirectory()) continue;
    if (keep.has(child.name)) {
      kept += 1;
      continue;
    }
    const path = join(folder, child.name);
    const removed = await rmdir(path).then(
      () => true,
      () => false,
    );
    if (!removed) {
      kept += 1;
      const processes = await readFile(join(path, "cgroup.procs"), "latin1").catch(() => "");
      log.warn(
        { cgroup: path, processes: processes.trim().split("\n").slice(0, 10) },
        "a cgroup that no sandbox owns could not be removed",
      );
    }
  }
  if (kept === 0) await rmdir(folder).catch(() => undefined); // made again when needed
}
