import { FileType, type EntryInfo } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { listEntriesMax, PlatformError, type FileEntry } from "@roost/contract";

import { fileErrors } from "./guest-errors.ts";
import { longCallTimeoutMs, type Guest } from "./guest.ts";

interface CallBy {
  readonly user?: string | undefined;
  readonly signal: AbortSignal;
}

export async function statFile(guest: Guest, path: string, by: CallBy): Promise<FileEntry> {
  const answer = await guest.call((options) => guest.filesystem.stat({ path }, options), { ...by, errors: fileErrors });
  return entryFrom(answer.entry);
}

export async function listFiles(guest: Guest, path: string, depth: number, by: CallBy): Promise<FileEntry[]> {
  const answer = await guest.call((options) => guest.filesystem.listDir({ path, depth }, options), {
    ...by,
    timeoutMs: longCallTimeoutMs,
    // a listing does not write: what is exhausted there is the number of entries
    errors: { ...fileErrors, 8: "path_invalid" },
  });
  if (answer.entries.length > listEntriesMax) {
    throw new PlatformError("path_invalid", `${path} has more than ${listEntriesMax} entries; list less deep`);
  }
  return answer.entries.map(entryFrom);
}

export async function makeFolder(guest: Guest, path: string, by: CallBy): Promise<FileEntry> {
  const answer = await guest.call((options) => guest.filesystem.makeDir({ path }, options), { ...by, errors: fileErrors });
  return entryFrom(answer.entry);
}

export async function moveFile(guest: Guest, source: string, destination: string, by: CallBy): Promise<FileEntry> {
  const answer = await guest.call((options) => guest.filesystem.move({ source, destination }, options), { ...by, errors: fileErrors });
  return entryFrom(answer.entry);
}

export async function removeFile(guest: Guest, path: string, by: CallBy): Promise<void> {
  await guest.call((options) => guest.filesystem.remove({ path }, options), { ...by, timeoutMs: longCallTimeoutMs, errors: fileErrors });
}

const types: Readonly<Record<number, FileEntry["type"]>> = {
  [FileType.FILE]: "file",
  [FileType.DIRECTORY]: "directory",
  [FileType.SYMLINK]: "symlink",
};

export function entryFrom(entry: EntryInfo | undefined): FileEntry {
  if (entry === undefined) throw new PlatformError("guest_error", "the guest agent answered without an entry");
  return {
    name: entry.name,
    path: entry.path,
    type: types[entry.type] ?? "unknown",
    size: Number(entry.size),
    mode: entry.mode,
    permissions: entry.permissions,
    owner: entry.owner,
    group: entry.group,
    modified_at: Number(entry.modifiedTime?.seconds ?? 0n),
    symlink_target: entry.symlinkTarget ?? null,
    metadata: entry.metadata,
  };
}
