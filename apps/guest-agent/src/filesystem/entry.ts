import { lstat, type Stats } from "node:fs";
import { realpath, stat } from "node:fs/promises";
import { constants } from "node:fs";

import type { MessageInitShape } from "@bufbuild/protobuf";
import { FileType, type EntryInfoSchema } from "@roost/contract/gen/filesystem/filesystem_pb.js";

import type { Users } from "../users/users.ts";
import { baseName, shownPath, type DiskPath } from "./disk-path.ts";
import { readMetadata } from "./metadata.ts";
import { permissionText } from "./permission-text.ts";

export type Entry = MessageInitShape<typeof EntryInfoSchema>;

/** Names of user and group ids, asked for once each: a listing has thousands of entries and two owners. */
export class OwnerNames {
  readonly #users: Users;
  readonly #userNames = new Map<number, string>();
  readonly #groupNames = new Map<number, string>();

  constructor(users: Users) {
    this.#users = users;
  }

  user(uid: number): string {
    return cached(this.#userNames, uid, (id) => this.#users.userName(id));
  }

  group(gid: number): string {
    return cached(this.#groupNames, gid, (id) => this.#users.groupName(id));
  }
}

function cached(names: Map<number, string>, id: number, ask: (id: number) => string): string {
  const known = names.get(id);
  if (known !== undefined) return known;
  const name = ask(id);
  names.set(id, name);
  return name;
}

/** The callback form costs a third of the promise, and a listing is little else. */
export async function lstatOf(path: DiskPath): Promise<Stats> {
  return new Promise((resolve, reject) => {
    lstat(path, (error, stats) => (error === null ? resolve(stats) : reject(error)));
  });
}

/**
 * What is at a path. Of a symbolic link, type and mode are the target's (unspecified where it leads nowhere) and the
 * target is resolved to its end; size, owner, times and permission text are the link's own.
 *
 * `shown` is the path to report where it differs: a folder that is listed through a symbolic link.
 */
export async function readEntry(path: DiskPath, owners: OwnerNames, shown: string = shownPath(path)): Promise<Entry> {
  const stats = await lstatOf(path);
  const entry = {
    name: baseName(shown),
    path: shown,
    size: BigInt(stats.size),
    permissions: permissionText(stats.mode),
    owner: owners.user(stats.uid),
    group: owners.group(stats.gid),
    modifiedTime: timestamp(stats.mtimeMs),
  };
  if (!stats.isSymbolicLink()) {
    const metadata = stats.isFile() || stats.isDirectory() ? readMetadata(path) : {};
    return { ...entry, type: fileType(stats), mode: stats.mode & 0o777, metadata };
  }
  const target = await resolveLink(path);
  if (target === undefined) return { ...entry, type: FileType.UNSPECIFIED, mode: 0 };
  return { ...entry, type: fileType(target.stats), mode: target.stats.mode & 0o777, symlinkTarget: target.path };
}

async function resolveLink(path: DiskPath): Promise<{ path: string; stats: Stats } | undefined> {
  try {
    const target = await realpath(path, { encoding: "buffer" });
    return { path: shownPath(target), stats: await stat(target) };
  } catch {
    return undefined; // dangling, cyclic, or gone meanwhile: a link that leads nowhere, which is a thing to report and no failure
  }
}

function fileType(stats: Stats): FileType {
  switch (stats.mode & constants.S_IFMT) {
    case constants.S_IFREG:
      return FileType.FILE;
    case constants.S_IFDIR:
      return FileType.DIRECTORY;
    default:
      return FileType.UNSPECIFIED;
  }
}

function timestamp(ms: number): { seconds: bigint; nanos: number } {
  const seconds = Math.floor(ms / 1000);
  const nanos = Math.min(999_999_999, Math.max(0, Math.round((ms - seconds * 1000) * 1e6)));
  return { seconds: BigInt(seconds), nanos };
}
