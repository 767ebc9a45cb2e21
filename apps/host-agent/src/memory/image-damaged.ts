import { PlatformError } from "@roost/contract";
import { z } from "zod";

/** A file of a memory image is not what was committed: nothing is restored from it. `detail` names the file and what differs. */
export function imageDamaged(detail: string, cause?: unknown): PlatformError {
  return new PlatformError("image_damaged", damagedMessage, { detail, ...(cause === undefined ? {} : { cause }) });
}

/** What went wrong while a file of a memory image was read, as an `image_damaged`; but not what is the host's own trouble, such as too many open files. */
export function readError(path: string, error: unknown): unknown {
  if (error instanceof PlatformError) return error;
  const { code, syscall, message } = error as NodeJS.ErrnoException;
  if (syscall !== undefined && !damageCodes.has(code ?? "")) return error;
  return imageDamaged(code === "ENOENT" ? `${path}: does not exist` : `${path}: ${message}`, error);
}

const damageCodes = new Set(["ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "EIO", "EUCLEAN"]);

const damagedMessage =
  "a saved state is damaged on the host's disk and cannot be restored: roll back to another generation, or resume without memory";

/** Why something that was read is not what its schema says, in one line. */
export function whyUnreadable(error: unknown): string {
  if (!(error instanceof z.ZodError)) return (error as Error).message;
  return error.issues.map((issue) => `${issue.path.join(".") || "it"}: ${issue.message}`).join("; ");
}

/** Runs what writes to the host's disk; a full disk becomes `host_disk_full`. */
export async function onHostDisk<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw diskError(error);
  }
}

/** The same for an error that was already caught. */
export function diskError(error: unknown): unknown {
  const { code } = error as NodeJS.ErrnoException;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new PlatformError("host_disk_full", "the host's disk is full: nothing was saved, and nothing saved before was lost", {
    detail: (error as Error).message,
    cause: error,
    retryAfterSec: 60,
  });
}
