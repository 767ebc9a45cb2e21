import { chmod, copyFile, lchown, lutimes, mkdir, readlink, rename, symlink } from "node:fs/promises";
import { dirname } from "node:path";

import { Code, ConnectError } from "@connectrpc/connect";

import type { GuestUser } from "../users/users.ts";
import { isWithin, joinPath, shownPath, type DiskPath } from "./disk-path.ts";
import { lstatOf } from "./entry.ts";
import { errnoOf, isMissing } from "./file-errors.ts";
import { makeFolders, removeMadeFolders } from "./make-folder.ts";
import { readFolder } from "./read-folder.ts";
import { removeTree } from "./remove-tree.ts";
import { newStagingName } from "./staging-name.ts";

/**
 * Moves what is at `source` to `destination`, making the folders above it. As rename(2): a file takes the place of a
 * file, a folder that of an empty folder. Between file systems (/tmp is often one of its own) it is copied under a
 * staging name first, so the destination appears as a whole or not at all.
 */
export async function movePath(source: string, destination: string, user: GuestUser, signal: AbortSignal): Promise<void> {
  // Before anything is made: a missing source must not leave folders behind.
  await lstatOf(source).catch((error: unknown) => {
    throw isMissing(error) ? new ConnectError(`source file not found: ${source}`, Code.NotFound) : error;
  });
  if (source !== destination && isWithin(destination, source)) {
    throw new ConnectError(`${source} cannot be moved into itself`, Code.InvalidArgument);
  }
  const made = await makeFolders(dirname(destination), user);
  try {
    await rename(source, destination).catch(async (error: unknown) => {
      if (errnoOf(error) !== "EXDEV") throw error;
      await moveAcross(source, destination, signal);
    });
  } catch (error) {
    await removeMadeFolders(dirname(destination), made);
    if (errnoOf(error) === "ENOTDIR")
      throw new ConnectError(`a folder cannot take the place of the file ${destination}`, Code.InvalidArgument);
    throw error;
  }
}

async function moveAcross(source: string, destination: string, signal: AbortSignal): Promise<void> {
  const staging = joinPath(dirname(destination), newStagingName(false));
  try {
    await copyTree(source, staging, signal);
    await rename(staging, destination);
  } catch (error) {
    await removeTree(staging, AbortSignal.timeout(600_000));
    throw error;
  }
  await removeTree(source, signal);
}

async function copyTree(source: DiskPath, target: DiskPath, signal: AbortSignal): Promise<void> {
  signal.throwIfAborted();
  const stats = await lstatOf(source);
  if (stats.isSymbolicLink()) await symlink(await readlink(source, { encoding: "buffer" }), target);
  else if (stats.isFile()) await copyFile(source, target);
  else if (stats.isDirectory()) {
    await mkdir(target);
    for (const item of await readFolder(source)) await copyTree(joinPath(source, item.name), joinPath(target, item.name), signal);
  } else
    throw new ConnectError(`${shownPath(source)} is neither file, folder nor link and stays on its file system`, Code.FailedPrecondition);
  await lchown(target, stats.uid, stats.gid);
  if (!stats.isSymbolicLink()) await chmod(target, stats.mode & 0o7777);
  await lutimes(target, stats.atime, stats.mtime);
}
