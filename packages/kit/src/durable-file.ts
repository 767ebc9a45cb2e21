import { randomBytes } from "node:crypto";
import { open, rename, rm, type FileHandle } from "node:fs/promises";
import { dirname } from "node:path";

/** Makes the entries of a folder durable: a rename or unlink in it survives a crash of the host. */
export async function syncFolder(folder: string): Promise<void> {
  await using handle = await openHandle(folder, "r");
  await handle.sync();
}

/**
 * Replaces a file as a whole: a crash at any moment leaves the old content or the new one.
 * When this returns the new content is on disk (file and folder fsynced).
 */
export async function writeFileDurably(path: string, data: string | Uint8Array, options: { readonly mode?: number } = {}): Promise<void> {
  const staging = `${path}.${randomBytes(4).toString("hex")}.tmp`;
  try {
    {
      await using handle = await openHandle(staging, "wx", options.mode ?? 0o644);
      await handle.writeFile(data);
      await handle.sync();
    }
    await rename(staging, path);
  } catch (error) {
    await rm(staging, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

async function openHandle(path: string, flags: string, mode?: number): Promise<FileHandle> {
  return open(path, flags, mode);
}
