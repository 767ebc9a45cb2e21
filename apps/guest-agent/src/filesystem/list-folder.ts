import { realpath } from "node:fs/promises";

import { Code, ConnectError } from "@connectrpc/connect";
import { listDepthMax, listEntriesMax } from "@roost/contract";

import { joinPath, shownPath, type DiskPath } from "./disk-path.ts";
import { readEntry, type Entry, type OwnerNames } from "./entry.ts";
import { isMissing } from "./file-errors.ts";
import { readFolder, type FolderItem } from "./read-folder.ts";

/** Entries looked up at once; between two batches other requests get their turn. */
const batchSize = 128;

/**
 * Everything under a folder down to `depth`, in the order of a lexical depth-first walk. The folder may be named
 * through symbolic links, and paths are reported under the name that was asked for; links inside are not followed.
 * What disappears while we look is not in the list.
 */
export async function listFolder(
  path: string,
  depth: number,
  owners: OwnerNames,
  signal: AbortSignal,
  entriesMax: number = listEntriesMax,
): Promise<Entry[]> {
  const levels = depth === 0 ? 1 : depth;
  if (levels > listDepthMax) throw new ConnectError(`depth ${depth} is above the limit of ${listDepthMax}`, Code.InvalidArgument);
  const entries: Entry[] = [];
  const root = await realpath(path, { encoding: "buffer" });
  const rootPath = Buffer.from(root.toString("utf8")).equals(root) ? root.toString("utf8") : root;
  await walk({ folder: rootPath, shown: path, items: await readFolder(rootPath), levels });
  return entries;

  async function walk(visit: { folder: DiskPath; shown: string; items: FolderItem[]; levels: number }): Promise<void> {
    const items = visit.items.sort(byName);
    for (let start = 0; start < items.length; start += batchSize) {
      signal.throwIfAborted();
      const batch = items.slice(start, start + batchSize).map((item) => ({
        path: joinPath(visit.folder, item.name),
        shown: shownPath(joinPath(visit.shown, item.name)),
        isFolder: item.isFolder,
      }));
      const found = await Promise.all(batch.map(async (item) => readEntry(item.path, owners, item.shown).catch(undefinedIfMissing)));
      for (const [index, entry] of found.entries()) {
        const item = batch[index];
        if (entry === undefined || item === undefined) continue;
        if (entries.length >= entriesMax) {
          throw new ConnectError(`more than ${entriesMax} entries; list a deeper folder or fewer levels`, Code.ResourceExhausted);
        }
        entries.push(entry);
        if (!item.isFolder || visit.levels <= 1) continue;
        const inside = await readFolder(item.path).catch(undefinedIfMissing);
        if (inside !== undefined) await walk({ folder: item.path, shown: item.shown, items: inside, levels: visit.levels - 1 });
      }
    }
  }
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}

function byName(left: FolderItem, right: FolderItem): number {
  const [first, second] = [shownPath(left.name), shownPath(right.name)];
  return first < second ? -1 : first > second ? 1 : 0;
}
