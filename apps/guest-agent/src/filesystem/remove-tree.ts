import { rmdir, unlink } from "node:fs/promises";

import { joinPath, type DiskPath } from "./disk-path.ts";
import { lstatOf } from "./entry.ts";
import { errnoOf, isMissing } from "./file-errors.ts";
import { readFolder } from "./read-folder.ts";

/** Files unlinked at once; between two batches other requests get their turn and an abort is noticed. */
const batchSize = 128;
/** Times a folder is emptied again because something was made in it meanwhile. */
const triesMax = 3;

/**
 * Removes whatever is at a path, with everything under it; symbolic links are removed, never followed. Nothing there
 * is fine. Node's own recursive `rm` is not used because it stumbles over names that are not UTF-8 and cannot be aborted.
 */
export async function removeTree(path: DiskPath, signal: AbortSignal): Promise<void> {
  const stats = await lstatOf(path).catch(undefinedIfMissing);
  if (stats === undefined) return;
  if (stats.isDirectory()) await removeFolder(path, signal);
  else await unlink(path).catch(undefinedIfMissing);
}

async function removeFolder(path: DiskPath, signal: AbortSignal): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    const items = (await readFolder(path).catch(undefinedIfMissing)) ?? [];
    for (let start = 0; start < items.length; start += batchSize) {
      signal.throwIfAborted();
      const batch = items.slice(start, start + batchSize);
      await Promise.all(
        batch.filter((item) => !item.isFolder).map(async (item) => unlink(joinPath(path, item.name)).catch(undefinedIfMissing)),
      );
      for (const item of batch) if (item.isFolder) await removeFolder(joinPath(path, item.name), signal);
    }
    try {
      await rmdir(path);
      return;
    } catch (error) {
      if (isMissing(error)) return;
      if (errnoOf(error) !== "ENOTEMPTY" || attempt >= triesMax) throw error;
    }
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}
