import { readSync } from "node:fs";
import { open, type FileHandle } from "node:fs/promises";

/** Fills `into` from `position` on; throws when the file ends before. */
export async function readFully(file: FileHandle, into: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < into.length;) {
    const { bytesRead } = await file.read(into, done, into.length - done, position + done);
    if (bytesRead === 0) throw new Error(`ends at ${position + done} where ${position + into.length} bytes were expected`);
    done += bytesRead;
  }
}

/** The same at once, for what is in memory anyway. */
export function readFullySync(file: number, into: Uint8Array, position: number): void {
  for (let done = 0; done < into.length;) {
    const count = readSync(file, into, done, into.length - done, position + done);
    if (count === 0) throw new Error(`ends at ${position + done} where ${position + into.length} bytes were expected`);
    done += count;
  }
}

export async function writeFully(file: FileHandle, from: Uint8Array, position: number): Promise<void> {
  for (let done = 0; done < from.length;) {
    const { bytesWritten } = await file.write(from, done, from.length - done, position + done);
    done += bytesWritten;
  }
}

/** Makes a file's content durable whoever wrote it. */
export async function syncFile(path: string): Promise<void> {
  await using file = await openFile(path, "r");
  await file.sync();
}

/** `open` as a type that `await using` takes. */
export async function openFile(path: string, flags: string | number, mode?: number): Promise<FileHandle> {
  return open(path, flags, mode);
}

/** A whole small file; throws when it has more than `bytesMax`. */
export async function readBounded(path: string, bytesMax: number): Promise<Buffer> {
  await using file = await openFile(path, "r");
  const { size } = await file.stat();
  if (size > bytesMax) throw new Error(`has ${size} bytes, more than ${bytesMax}`);
  const bytes = Buffer.alloc(size);
  await readFully(file, bytes, 0);
  return bytes;
}

/** Writes a new file, and makes its content durable. */
export async function writeSynced(path: string, data: string | Uint8Array, mode: number): Promise<void> {
  await using file = await openFile(path, "wx", mode);
  await file.writeFile(data);
  await file.sync();
}
