import { readdirSync, type Dirent } from "node:fs";
import { readdir } from "node:fs/promises";

import type { DiskPath } from "./disk-path.ts";

export interface FolderItem {
  /** bytes where the name is not UTF-8 */
  readonly name: DiskPath;
  readonly isFolder: boolean;
}

const replacementCharacter = "\u{FFFD}";

/** Names in a folder, unsorted. Text is the fast way; only a folder with a name that is no UTF-8 is read again as bytes. */
export async function readFolder(path: DiskPath): Promise<FolderItem[]> {
  const entries = await readdir(path, { withFileTypes: true });
  if (!entries.some(isDoubtful)) return entries.map(toItem);
  return (await readdir(path, { withFileTypes: true, encoding: "buffer" })).map(toItemOfBytes);
}

/** As `readFolder`, at once: for inotify, where nothing may happen between two looks. */
export function readFolderSync(path: DiskPath): FolderItem[] {
  const entries = readdirSync(path, { withFileTypes: true });
  if (!entries.some(isDoubtful)) return entries.map(toItem);
  return readdirSync(path, { withFileTypes: true, encoding: "buffer" }).map(toItemOfBytes);
}

function isDoubtful(entry: Dirent): boolean {
  return entry.name.includes(replacementCharacter);
}

function toItem(entry: Dirent): FolderItem {
  return { name: entry.name, isFolder: entry.isDirectory() };
}

function toItemOfBytes(entry: Dirent<Buffer>): FolderItem {
  const text = entry.name.toString("utf8");
  return { name: Buffer.from(text).equals(entry.name) ? text : entry.name, isFolder: entry.isDirectory() };
}
