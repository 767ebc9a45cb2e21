import { chmod, lchown, mkdir, rmdir, stat } from "node:fs/promises";
import { dirname } from "node:path";

import { Code, ConnectError } from "@connectrpc/connect";

import type { GuestUser } from "../users/users.ts";
import { isWithin } from "./disk-path.ts";
import { errnoOf, isMissing } from "./file-errors.ts";

/** Mode of folders the agent makes, whatever its own umask is. */
const folderMode = 0o755;

/**
 * Makes a folder and those above it that are missing. Each one made belongs to the acting user; those that were there
 * keep their owner. Answers the topmost one made, or undefined when there was nothing to make.
 */
export async function makeFolders(path: string, user: GuestUser): Promise<string | undefined> {
  const missing: string[] = [];
  for (let folder = path; ; folder = dirname(folder)) {
    const stats = await stat(folder).catch(undefinedIfMissing);
    if (stats?.isDirectory() === true) break;
    if (stats !== undefined) throw new ConnectError(`${folder} is not a directory`, Code.InvalidArgument);
    missing.push(folder);
  }
  const topmost = missing.at(-1);
  for (let folder = missing.pop(); folder !== undefined; folder = missing.pop()) {
    try {
      await mkdir(folder, { mode: folderMode });
    } catch (error) {
      if (errnoOf(error) !== "EEXIST" || !(await stat(folder)).isDirectory()) throw error; // somebody else made it meanwhile: it is theirs
      continue;
    }
    await chmod(folder, folderMode);
    await lchown(folder, user.uid, user.gid);
  }
  return topmost;
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}

/** Removes folders that `makeFolders` made for something that then failed, from the innermost up, as far as they are empty. */
export async function removeMadeFolders(innermost: string, topmost: string | undefined): Promise<void> {
  if (topmost === undefined) return;
  for (let folder = innermost; isWithin(folder, topmost); folder = dirname(folder)) {
    const removed = await rmdir(folder).then(
      () => true,
      () => false, // not empty: somebody uses it already
    );
    if (!removed || folder === topmost) return;
  }
}
