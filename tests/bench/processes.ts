import { readdir, readFile, realpath, stat } from "node:fs/promises";
import { join } from "node:path";

import { instanceTag } from "@roost/testing";

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

/** Pids of the VMMs of one platform, waiting ones included: they run in network namespaces that carry its tag. */
export async function vmmsOf(folder: string): Promise<number[]> {
  const prefix = `roost-${instanceTag(await realpath(folder))}-`;
  const namespaces = new Set<number>();
  for (const name of await readdir(netnsFolder)) {
    if (name.startsWith(prefix)) namespaces.add(await inode(join(netnsFolder, name)));
  }
  const found: number[] = [];
  for (const name of await readdir("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    const command = await readFile(`/proc/${name}/comm`, "latin1").catch(() => ""); // ended while we looked
    if (command.startsWith("qemu-system") && namespaces.has(await inode(`/proc/${name}/ns/net`))) found.push(Number(name));
  }
  return found;
}

const netnsFolder = "/run/netns";

/** NaN when there is no such file any more. */
async function inode(path: string): Promise<number> {
  return stat(path).then(
    ({ ino }) => ino,
    () => Number.NaN,
  );
}

/** Memory the kernel could hand out now without swapping, in `MiB`. */
export async function availableMib(): Promise<number> {
  const text = await readFile("/proc/meminfo", "latin1");
  return Number(/^MemAvailable:\s+(\d+) kB$/m.exec(text)?.[1]) / 1024;
}
