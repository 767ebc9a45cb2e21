import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";

/** The QEMU whose command line names both texts: an installation's folder and a sandbox's id. */
export async function findVmm(folder: string, sandboxId: string): Promise<number | undefined> {
  for (const entry of await readdir("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    try {
      const name = await readFile(join("/proc", entry, "comm"), "utf8");
      if (!name.startsWith("qemu-system")) continue;
      const argumentsOfIt = (await readFile(join("/proc", entry, "cmdline"), "latin1")).split("\0");
      if (argumentsOfIt.some((argument) => argument.includes(folder)) && argumentsOfIt.some((argument) => argument.includes(sandboxId)))
        return Number(entry);
    } catch {
      // it ended while we looked
    }
  }
  return undefined;
}
