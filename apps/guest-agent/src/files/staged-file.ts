import { constants, copyFileSync, fchmodSync, fchownSync, fstatSync, renameSync, unlinkSync, type Stats } from "node:fs";
import { copyFile, open, readlink, realpath, rename, unlink, type FileHandle } from "node:fs/promises";
import { dirname, join, resolve } from "node:path";

import { lstatOf } from "../filesystem/entry.ts";
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
  readonly #place: Place;
  readonly #handle: FileHandle;
  /** `nameless` until it gets its place; `named` staging files are removed on abort; `in-place` ones are the target itself */
  readonly #kind: "nameless" | "named" | "in-place";
  readonly #stagingPath: string;
  #done = false;

  /**
   * Prepares to create or replace the file at `path`. Symbolic links are followed: the file they lead to is written.
   * A folder, or what is no regular file, is refused.
   */
  static async open(path: string, user: GuestUser): Promise<StagedFile> {
    const { target, existing } = await findTarget(path);
    if (existing?.isDirectory() === true) throw new HttpError(400, `path is a directory: ${path}`);
    if (existing !== undefined && !existing.isFile()) throw new HttpError(400, `path is not a regular file: ${path}`);
    const place: Place = { target, user, existingMode: existing === undefined ? undefined : existing.mode & 0o777, madeTopmost: undefined };
    const folder = dirname(target);
    try {
      return await openStaging(folder, place);
    } catch (error) {
      if (existing === undefined && isMissing(error)) {
        const madeTopmost = await makeFolders(folder, user);
        try {
          return await openStaging(folder, { ...place, madeTopmost });
        } catch (secondError) {
          await removeMadeFolders(folder, madeTopmost);
          throw secondError;
        }
      }
      // Folders of /proc and /sys take no new files, a folder may be immutable: what is there can still be written.
      if (existing === undefined || !["ENOENT", "EACCES", "EPERM"].includes(errnoOf(error) ?? "")) throw error;
      return new StagedFile(place, await open(target, constants.O_WRONLY | constants.O_TRUNC), "in-place", target);
    }
  }

  /** Only for `open`. */
  constructor(place: Place, handle: FileHandle, kind: "nameless" | "named" | "in-place", stagingPath: string) {
    this.#place = place;
    this.#handle = handle;
    this.#kind = kind;
    this.#stagingPath = stagingPath;
  }

  /** Takes content, after what was written before. */
  async write(content: AsyncIterable<Buffer> | Iterable<Buffer>): Promise<void> {
    await writeTo(this.#handle, content);
  }

  /** Puts the file in its place, with the acting user as owner and the mode of the file it replaces. */
  async commit(metadata: Metadata): Promise<void> {
    try {
      if (this.#kind === "nameless") this.#publishNow(metadata);
      else if (this.#kind === "named") await this.#publish(metadata);
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
    if (this.#kind === "named") await unlink(this.#stagingPath).catch(undefinedIfMissing);
    await removeMadeFolders(dirname(this.#place.target), this.#place.madeTopmost);
  }

  /**
   * At once, without leaving the thread: a file system that knows nameless files is one of the kernel's own, where
   * these calls do not wait for anybody, and each trip to the thread pool would cost more than the call.
   */
  #publishNow(metadata: Metadata): void {
    const { target, user, existingMode } = this.#place;
    const descriptor = this.#handle.fd;
    fchownSync(descriptor, user.uid, user.gid);
    fchmodSync(descriptor, existingMode ?? fileMode);
    this.#writeAttributes(metadata);
    const linked = libc().linkDescriptor(descriptor, this.#stagingPath);
    if (linked < 0) throw systemError("linkat", linked, this.#stagingPath);
    try {
      renameSync(this.#stagingPath, target);
    } catch (error) {
      try {
        if (errnoOf(error) !== "EBUSY") throw error;
        copyFileSync(this.#stagingPath, target); // a file that is a mount point, as /etc/resolv.conf can be, keeps its inode
      } finally {
        unlinkSync(this.#stagingPath);
      }
    }
  }

  async #publish(metadata: Metadata): Promise<void> {
    const { target, user, existingMode } = this.#place;
    await this.#handle.chown(user.uid, user.gid);
    await this.#handle.chmod(existingMode ?? fileMode);
    this.#writeAttributes(metadata);
    await rename(this.#stagingPath, target).catch(async (error: unknown) => {
      if (errnoOf(error) !== "EBUSY") throw error;
      await copyFile(this.#stagingPath, target);
      await unlink(this.#stagingPath);
    });
  }

  #writeAttributes(metadata: Metadata): void {
    if (this.#place.existingMode !== undefined) copyForeignAttributes(this.#place.target, this.#handle.fd);
    writeMetadata(this.#handle.fd, metadata);
  }
}

/** Where a file goes, and what was found there. */
interface Place {
  readonly target: string;
  readonly user: GuestUser;
  /** of the file that is replaced */
  readonly existingMode: number | undefined;
  /** the topmost folder that was made for it */
  readonly madeTopmost: string | undefined;
}

async function openStaging(folder: string, place: Place): Promise<StagedFile> {
  const stagingPath = join(folder, newStagingName(place.existingMode !== undefined));
  const nameless = await open(folder, O_TMPFILE | constants.O_WRONLY, 0o600).catch(undefinedIfUnsupported);
  if (nameless === undefined) return new StagedFile(place, await open(stagingPath, "wx", 0o600), "named", stagingPath);
  rememberNameless(fstatSync(nameless.fd).ino);
  return new StagedFile(place, nameless, "nameless", stagingPath);
}

/** Where a write to `path` would end: through every symbolic link, also one that leads to nothing yet. */
async function findTarget(path: string): Promise<{ readonly target: string; readonly existing: Stats | undefined }> {
  let current = path;
  for (let links = 0; links <= linksMax; links += 1) {
    const existing = await lstatOf(current).catch(undefinedIfMissing);
    if (existing?.isSymbolicLink() !== true) return { target: current, existing };
    const resolved = await realpath(current).catch(undefinedIfMissing);
    current = resolved ?? resolve(await realpath(dirname(current)), await readlink(current));
  }
  throw new HttpError(400, `too many symbolic links: ${path}`);
}

function undefinedIfMissing(error: unknown): undefined {
  if (!isMissing(error)) throw error;
}

function undefinedIfUnsupported(error: unknown): undefined {
  if (!["EOPNOTSUPP", "ENOTSUP", "EISDIR", "EINVAL"].includes(errnoOf(error) ?? "")) throw error;
}
