import { constants } from "node:fs";
import { lstat, open } from "node:fs/promises";
import { join } from "node:path";

import { KiB } from "@roost/kit";

/**
 * The console of a VM is two files that its supervisor fills in turn: when `console` is full it becomes
 * `console.old`. So a guest that prints for ever costs twice this in `bytes` on the host, and the newest output survives
 * VMM, supervisor and host agent.
 */
export const consoleFileBytesMax = 128 * KiB;
export const consoleFileName = "console";
export const consoleOldFileName = "console.old";

/** Reads of a console that is rotated meanwhile; then a seam that repeats or lacks some bytes is accepted. */
const readAttemptsMax = 3;
/** Longest line shown to people in `characters`; the rest of it is cut. */
const lineLengthMax = 400;

/** Newest bytes of the console in `folder`, at most `bytesMax`; empty when there is none yet. */
export async function readConsole(folder: string, bytesMax: number): Promise<Buffer> {
  const path = join(folder, consoleFileName);
  for (let attempt = 1; ; attempt += 1) {
    const before = await inode(path);
    const newest = await readFileTail(path, Math.min(bytesMax, consoleFileBytesMax));
    const missing = Math.min(bytesMax - newest.length, consoleFileBytesMax);
    const older = missing > 0 ? await readFileTail(join(folder, consoleOldFileName), missing) : Buffer.alloc(0);
    const isWhole = (await inode(path)) === before; // else the files changed places between the two reads
    if (isWhole || attempt === readAttemptsMax) return Buffer.concat([older, newest]);
  }
}

async function inode(path: string): Promise<bigint | undefined> {
  return (await lstat(path, { bigint: true }).catch(() => undefined))?.ino; // not there yet
}

/** The last `count` lines that hold something, without control characters and terminal escapes. */
export function consoleLines(bytes: Buffer, count: number): string[] {
  const lines: string[] = [];
  for (const raw of bytes.toString("utf8").split(/\r?\n|\r/)) {
    const line = stripControls(raw).trimEnd();
    if (line !== "") lines.push(line.length > lineLengthMax ? `${line.slice(0, lineLengthMax)}…` : line);
  }
  return count > 0 ? lines.slice(-count) : [];
}

/** A guest chooses these bytes: shown as they are they could rewrite the terminal of whoever reads a log. */
function stripControls(line: string): string {
  // eslint-disable-next-line eslint/no-control-regex -- control characters are what it looks for
  return line.replaceAll(/\u001b\[[0-9;?]*[ -/]*[@-~]/g, "").replaceAll(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f]/g, "");
}

/**
 * The last bytes of a file in a folder that a VMM may write to. A guest that took its VMM over may have put a link, a
 * pipe or a device in its place: none is followed or waited for, and it counts as empty.
 */
export async function readFileTail(path: string, bytesMax: number): Promise<Buffer> {
  let handle;
  try {
    handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  } catch {
    return Buffer.alloc(0); // not there yet, or not a file
  }
  try {
    const status = await handle.stat();
    if (!status.isFile()) return Buffer.alloc(0);
    const length = Math.min(bytesMax, status.size);
    const { bytesRead, buffer } = await handle.read(Buffer.alloc(length), 0, length, status.size - length);
    return buffer.subarray(0, bytesRead);
  } finally {
    await handle.close();
  }
}
