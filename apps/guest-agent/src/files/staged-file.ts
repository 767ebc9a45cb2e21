import { constants } from "node:fs";
import { copyFile, open, readlink, realpath, rename, stat, unlink, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";
import type { Writable } from "node:stream";

import { baseName } from "../filesystem/disk-path.ts";
import { errnoOf, isMissing, systemError } from "../filesystem/file-errors.ts";
import { libc } from "../filesystem/libc.ts";
import { makeFolders, removeMadeFolders } from "../filesystem/make-folder.ts";
import { copyForeignAttributes, writeMetadata, type Metadata } from "../filesystem/metadata.ts";
import { newStagingName, rememberNameless } from "../filesystem/staging-name.ts";
import type { GuestUser } from "../users/users.ts";
import { writeTo } from "./file-streams.ts";
import { HttpError } from "../http/http-error.ts";

/** Mode of new files, whatever the agent's own umask is. */
const fileMode = 0o644;
/** Symbolic links followed to a file that does not exist yet, as the kernel would (path_resolution(7)). */
const linksMax = 40;
/** open(2): a file without a name, which is gone with its last descriptor. Node does not list it. */
const O_TMPFILE = 0o20_000_000 | constants.O_DIRECTORY;

/**
 * A file on its way to its place. What is written becomes visible as a whole at `commit`, or never: until then the
 * file has no name, so not even a killed agent leaves something behind (where a file system cannot do that, it has a
 * staging name). Of several at once the last to commit stays, whole.
 *
 * Nothing is fsynced: a sandbox's memory, with the page cache in it, is saved together with its disk.
 */
export class StagedFile {
  readonly #target: string;
  readonly #user: GuestUser;
  readonly #handle: FileHandle;
  readonly #existingMode: number | undefined;
  readonly #madeTopmost: string | undefined;
  /** path of the staging name; undefined while the file has none */
  #stagingPath: string | undefined;
  readonly #inPlace: boolean;
  #done = false;

  /**
   * Prepares to create or replace the file at `path`. Symbolic links are followed: the file they lead to is written.
   * A folder, or what is no regular file, is refused.
   */
  static async open(path: string, user: GuestUser): Promise<StagedFile> {
    const target = await followLinks(path);
    const existing = await stat(target).catch(undefinedIfMissing);
    if (existing?.isDirectory() === true) throw new HttpError(400, `path is a directory: ${path}`);
    if (existing !== undefined && !existing.isFile()) throw new HttpError(400, `path is not a regular file: ${path}`);
    if (baseName(target) === "") throw new HttpError(400, `path is a directory: ${path}`);
    const madeTopmost = await makeFolders(dirname(target), user);
    const stagingPath = join(dirname(target), newStagingName(existing !== undefined));
    const prepared = { target, user, existingMode: existing === undefined ? undefined : existing.mode & 0o777, madeTopmost };
    try {
      const nameless = await openNameless(dirname(target));
      if (nameless !== undefined) return new StagedFile(prepared, nameless, undefined, false);
      return new StagedFile(prepared, await open(stagingPath, "wx", 0o600), stagingPath, false);
    } catch (error) {
      // Folders of /proc and /sys take no new files, a folder may be immutable: what is there can still be written.
      const mayWriteInPlace = existing !== undefined && ["ENOENT", "EACCES", "EPERM"].includes(errnoOf(error) ?? "");
      if (mayWriteInPlace) return new StagedFile(prepared, await open(target, constants.O_WRONLY | constants.O_TRUNC), undefined, true);
      await removeMadeFolders(dirname(target), madeTopmost);
      throw error;
    }
  }

  private constructor(
    prepared: { target: string; user: GuestUser; existingMode: number | undefined; madeTopmost: string | undefined },
    handle: FileHandle,
    stagingPath: string | undefined,
    inPlace: boolean,
  ) {
    this.#target = prepared.target;
    this.#user = prepared.user;
    this.#existingMode = prepared.existingMode;
    this.#madeTopmost = prepared.madeTopmost;
    this.#handle = handle;
    this.#stagingPath = stagingPath;
    this.#inPlace = inPlace;
  }

  /** Takes the content. May be asked for again: each writes on where the one before ended. */
  writable(): Writable {
    return writeTo(this.#handle);
  }

  /** Puts the file in its place, with the acting user as owner and the mode of the file it replaces. */
  async commit(metadata: Metadata): Promise<void> {
    try {
      if (!this.#inPlace) await this.#publish(metadata);
    } catch (error) {
      await this.abort();
      throw error;
    }
    this.#done = true;
    await this.#handle.close();
  }

  /** Leaves no trace: no file, and no folder made for it. Does nothing after `commit`. */
  async abort(): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    await this.#handle.close();
    if (this.#stagingPath !== undefined) await unlink(this.#stagingPath).catch(undefinedIfMissing);
    await removeMadeFolders(dirname(this.#target), this.#madeTopmost);
  }

  async #publish(metadata: Metadata): Promise<void> {
    await this.#handle.chown(this.#user.uid, this.#user.gid);
    await this.#handle.chmod(this.#existingMode ?? fileMode);
    if (this.#existingMode !== undefined) copyForeignAttributes(this.#target, this.#handle.fd);
    writeMetadata(this.#handle.fd, metadata);
    if (this.#stagingPath === undefined) {
      const stagingPath = join(dirname(this.#target), newStagingName(this.#existingMode !== undefined));
      const result = libc().linkDescriptor(this.#handle.fd, stagingPath);
      if (result < 0) throw systemError("linkat", result, stagingPath);
      this.#stagingPath = stagingPath;
    }
    const stagingPath = this.#stagingPath;
    await rename(stagingPath, this.#target).catch(async (error: unknown) => {
      if (errnoOf(error) !== "EBUSY") throw error;
      await copyFile(stagingPath, this.#target); // a file that is a mount point, as /etc/resolv.conf can be, keeps its inode
      await unlink(stagingPath);
    });
    this.#stagingPath = undefined;
  }
}

async function openNameless(folder: string): Promise<FileHandle | undefined> {
  try {
    const file = await open(folder, O_TMPFILE | constants.O_WRONLY, 0o600);
    rememberNameless((await file.stat()).ino);
    return file;
  } catch (error) {
    const unsupported = ["EOPNOTSUPP", "ENOTSUP", "EISDIR", "EINVAL"].includes(errnoOf(error) ?? "");
    if (!unsupported) throw error;
    return undefined;
  }
}

/** Where a write to `path` would end: through every symbolic link, also one that leads to nothing yet. */
async function followLinks(path: string): Promise<string> {
  let current = path;
  for (let links = 0; links <= linksMax; links += 1) {
    const resolved = await realpath(current).catch(undefinedIfMissing);
    if (resolved !== undefined) return resolved;
    const folder = await realpath(dirname(current)).catch(undefinedIfMissing);
    if (folder === undefined) return current; // folders above are missing: they will be made
    current = join(folder, baseName(current));
    const link = await readlink(current).catch(undefinedIfNoLink);
    if (link === undefined) return current;
    current = resolve(folder, link);
  }
  throw new HttpError(400, `too many symbolic links: ${path}`);
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}

function undefinedIfNoLink(error: unknown): undefined {
  if (!isMissing(error) && errnoOf(error) !== "EINVAL") throw error;
}
