import type { ErrorCode } from "../errors.ts";

export const ofSandbox = ["sandbox_not_found", "host_unreachable"] as const satisfies readonly ErrorCode[];
export const ofChange = [
  ...ofSandbox,
  "sandbox_wrong_state",
  "sandbox_busy",
  "host_disk_full",
  "shutting_down",
] as const satisfies readonly ErrorCode[];
/** Starting from what was saved */
export const ofImage = [
  "image_damaged",
  "image_incompatible",
  "capacity_exhausted",
  "quota_exceeded",
  "sandbox_resume_failed",
] as const satisfies readonly ErrorCode[];
/** A paused sandbox may be resumed by the request */
export const ofGuest = [
  ...ofSandbox,
  ...ofImage,
  "sandbox_wrong_state",
  "sandbox_busy",
  "guest_unreachable",
  "guest_error",
  "user_unknown",
] as const satisfies readonly ErrorCode[];
