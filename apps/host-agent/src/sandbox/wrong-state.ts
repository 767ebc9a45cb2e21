import { PlatformError, type DenialReason, type SandboxState } from "@roost/contract";

const denialWords: Record<DenialReason, string> = {
  "not-running": "it is not running",
  "not-paused": "it is not paused",
  "change-in-progress": "it is not running yet",
  "stop-pending": "it is being stopped",
  "already-stopped": "it has stopped",
  "has-failed": "it has failed",
};

/** What a request gets that the sandbox's state denies. */
export function wrongState(state: SandboxState, reason: DenialReason): PlatformError {
  return new PlatformError("sandbox_wrong_state", `the sandbox is ${state}: ${denialWords[reason]}`);
}

/** What a request gets when its sandbox was deleted while it waited. */
export function goneError(): PlatformError {
  return new PlatformError("sandbox_not_found", "the sandbox was deleted");
}
