import { decide, PlatformError, type DenialReason, type SandboxRequest } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";

const advice: Readonly<Record<DenialReason, string>> = {
  "not-running": "it is paused",
  "not-paused": "it is not paused",
  "change-in-progress": "try again when that is done",
  "stop-pending": "it is being stopped",
  "already-stopped": "it has ended",
  "has-failed": "its failure_reason says why; it can only be deleted",
};

/** Refuses what the sandbox's state does not allow, as far as the record knows; the host has the last word. */
export function requireAllowed(row: SandboxRow, kind: SandboxRequest["kind"]): void {
  const decision = decide(row.state, { kind });
  if (decision.kind === "deny") {
    throw new PlatformError("sandbox_wrong_state", `sandbox ${row.id} is ${row.state}: ${advice[decision.reason]}`);
  }
}
