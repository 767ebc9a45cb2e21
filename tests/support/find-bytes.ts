import { open, readdir, readFile, stat, type FileHandle } from "node:fs/promises";
import { join } from "node:path";

import { MiB } from "@roost/kit";

/** Read at once; patterns that lie across two pieces are found because the pieces overlap */
const pieceBytes = MiB;
/** After so long in `ms` pages that a mapping has changed are on disk, and the next change of one shows in the file's `mtime` again: twice what kernels wait */
const restMs = 70_000;
const zeros = Buffer.alloc(2 * pieceBytes);

/** A text in the forms in which a program could have kept it: as it is, in UTF-16, in hex, and in base64 at each of its three alignments. */
export function formsOf(text: string): Buffer[] {
  const bytes = Buffer.from(text);
  const inBase64 = [0, 1, 2].map((before) => {
    const encoded = Buffer.concat([Buffer.alloc(before), bytes]).toString("base64");
    // The first characters have bits of what comes before, the last ones of what follows
    return Buffer.from(encoded.slice(before === 0 ? 0 : before + 1, -4));
  });
  return [bytes, Buffer.from(text, "utf16le"), Buffer.from(bytes.toString("hex")), ...inBase64];
}

/**
 * Files below a folder that have one of the patterns in them; each content is read once, however many names it has. `clean`: files that have none and nobody has
 * written for long, which the next search for the same passes over until they are written again.
 */
export async function filesWith(folder: string, patterns: readonly Buffer[], clean = new Set<string>()): Promise<string[]> {
  const found: string[] = [];
  const seen = new Set<string>();
  for (const entry of await readdir(folder, { withFileTypes: true, recursive: true })) {
    if (!entry.isFile()) continue;
    const path = join(entry.parentPath, entry.name);
    try {
      const { dev, ino, size, mtimeMs } = await stat(path);
      const content = `${dev} ${ino} ${size} ${mtimeMs}`;
      if (seen.has(`${dev} ${ino}`) || clean.has(content)) continue;
      seen.add(`${dev} ${ino}`);
      await using file = await open(path);
      if (await hasIn(file, 0, size, patterns)) found.push(path);
      else if (Date.now() - mtimeMs > restMs) clean.add(content);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error; // it was replaced or removed while we looked
    }
  }
  return found;
}

/** Regions of a process's memory that have one of the patterns in them, by address. */
export async function memoryWith(pid: number, patterns: readonly Buffer[]): Promise<string[]> {
  const found: string[] = [];
  await using memory = await open(`/proc/${pid}/mem`);
  for (const line of (await readFile(`/proc/${pid}/maps`, "utf8")).split("\n")) {
    const [range = "", access = "", , , , name = ""] = line.split(/\s+/);
    const [first = "", end = ""] = range.split("-");
    if (!access.startsWith("r") || name === "[vvar]" || name === "[vsyscall]" || name === "[vvar_vclock]") continue;
    if (await hasIn(memory, Number.parseInt(first, 16), Number.parseInt(end, 16), patterns)) found.push(line);
  }
  return found;
}

async function hasIn(file: FileHandle, first: number, end: number, patterns: readonly Buffer[]): Promise<boolean> {
  const overlap = Math.max(...patterns.map(({ length }) => length)) - 1;
  const buffer = Buffer.alloc(pieceBytes + overlap);
  let kept = 0;
  for (let at = first; at < end;) {
    let bytesRead: number;
    try {
      ({ bytesRead } = await file.read(buffer, kept, Math.min(pieceBytes, end - at), at));
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code === "EIO" || (error as NodeJS.ErrnoException).code === "EFAULT") return false; // a region of a device
      throw error;
    }
    if (bytesRead === 0) return false;
    const piece = buffer.subarray(0, kept + bytesRead);
    at += bytesRead;
    // Most of a guest's memory, and of a sparse file: to see that is ten times quicker than to search it
    if (piece.equals(zeros.subarray(0, piece.length))) {
      kept = 0;
      continue;
    }
    if (patterns.some((pattern) => piece.includes(pattern))) return true;
    kept = Math.min(overlap, piece.length);
    piece.copyWithin(0, piece.length - kept);
  }
  return false;
}
