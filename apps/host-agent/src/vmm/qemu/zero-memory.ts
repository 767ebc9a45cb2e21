import { randomBytes } from "node:crypto";
import { link, mkdir, open, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { MiB } from "@roost/kit";

/**
 * The base file of VMs that boot cold: all zeros, sparse, no bytes on disk, one per memory size, written by nobody.
 * So a booted VM and a restored one are the same to whoever asks what a guest changed: it is relative to a base file.
 */
export async function ensureZeroMemory(folder: string, memoryMib: number): Promise<string> {
  const path = join(folder, `zero-${memoryMib}mib.memory`);
  const size = memoryMib * MiB;
  const present = await stat(path).catch(() => undefined); // most likely absent, and made below
  if (present?.size === size) return path;
  await mkdir(folder, { recursive: true });
  const staging = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    {
      await using handle = await open(staging, "wx", 0o444);
      await handle.truncate(size);
      await handle.chmod(0o444); // whatever the umask: the VM's uid reads it
      await handle.sync();
    }
    if (present !== undefined) await rm(path, { force: true }); // cut short by something that is not ours
    // Never in place of a file that is there: another start, which made it just now, may be about to link it
    await link(staging, path);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  } finally {
    await rm(staging, { force: true });
  }
  return path;
}
