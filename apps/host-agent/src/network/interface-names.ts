import { readFile } from "node:fs/promises";

/** Names of the network interfaces in this process's network namespace. (`/sys/class/net` has those of the namespace where `/sys` was mounted.) */
export async function listInterfaces(): Promise<string[]> {
  const lines = (await readFile("/proc/self/net/dev", "latin1")).split("\n").slice(2); // two lines of headings
  return lines.flatMap((line) => /^\s*([^\s:]+):/.exec(line)?.[1] ?? []);
}
