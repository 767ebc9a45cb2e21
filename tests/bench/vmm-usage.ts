import { readFile } from "node:fs/promises";

/** Clock ticks per second that /proc counts CPU time in; 100 on every Linux that Debian builds (sysconf(_SC_CLK_TCK)). */
const ticksPerSecond = 100;

/** Memory of a process in `MiB`, what it shares divided among those who share it (proc_pid_smaps(5)). */
export async function pssMib(pid: number): Promise<number> {
  const text = await readFile(`/proc/${pid}/smaps_rollup`, "utf8");
  return Number(/^Pss:\s+(\d+) kB/m.exec(text)?.[1]) / 1024;
}

/** CPU time a process has used so far in `ms`. */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "latin1");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return ((Number(fields[11]) + Number(fields[12])) / ticksPerSecond) * 1000;
}
