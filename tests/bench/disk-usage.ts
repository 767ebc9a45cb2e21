import { lstat, readdir } from "node:fs/promises";
import { join } from "node:path";

export interface DiskUsage {
  /** Blocks of files that only this folder has, and of folders, in `bytes` */
  readonly own: number;
  /** Blocks of files that have other names elsewhere, in `bytes` */
  readonly shared: number;
}

/** What a folder takes on disk, as `du` counts it. */
export async function diskUsage(folder: string): Promise<DiskUsage> {
  let own = 0;
  let shared = 0;
  for (const name of [".", ...(await readdir(folder, { recursive: true }))]) {
    const stat = await lstat(join(folder, name)).catch(() => undefined); // removed while we looked
    if (stat === undefined) continue;
    const bytes = stat.blocks * 512; // st_blocks counts in 512 bytes whatever the file system's are
    if (stat.isFile() && stat.nlink > 1) shared += bytes;
    else own += bytes;
  }
  return { own, shared };
}
