import { PlatformError } from "@roost/contract";

/** How operations on a sandbox fail, for their users. */

export type FailureCode = "sandbox_pause_failed" | "sandbox_resume_failed" | "snapshot_failed" | "fork_failed";

export const failureCode = { checkpoint: "snapshot_failed", fork: "fork_failed", snapshot: "snapshot_failed" } as const;
export const failureText = {
  checkpoint: "the checkpoint could not be made; the sandbox is as it was",
  fork: "the sandbox could not be forked; it is as it was",
  snapshot: "the snapshot could not be made; the sandbox is as it was",
} as const;

/** An error from the catalogue: the one that was thrown if it is, or was caused by, one; else one that says what could not be done. */
export function asPlatformError(code: FailureCode, text: string, error: unknown): PlatformError {
  const cause = error instanceof Error && error.cause instanceof PlatformError ? error.cause : error;
  if (cause instanceof PlatformError && cause.code !== "internal") return cause;
  return new PlatformError(code, text, { detail: error instanceof Error ? error.message : String(error), cause: error });
}
