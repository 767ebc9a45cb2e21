import { readFile } from "node:fs/promises";

import type { ProcessIdentity } from "@roost/kit";

/** Clock ticks per second in /proc (USER_HZ): 100 on every architecture we run on, whatever the kernel's own HZ. */
const ticksPerSec = 100;

/** CPU time a process has used, user and system, in `s`; undefined when it is gone. */
export async function cpuTimeSec(process: ProcessIdentity): Promise<number | undefined> {
  const stat = await readFile(`/proc/${process.pid}/stat`, "latin1").catch(() => undefined);
  return stat === undefined ? undefined : parseCpuTimeSec(stat, process.startTicks);
}

/** Fields 14, 15 and 22 of proc_pid_stat(5); the name in field 2 may hold spaces and brackets. */
export function parseCpuTimeSec(stat: string, startTicks: string): number | undefined {
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  if (fields[19] !== startTicks) return undefined; // the pid is somebody else's by now
  return (Number(fields[11]) + Number(fields[12])) / ticksPerSec;
}
