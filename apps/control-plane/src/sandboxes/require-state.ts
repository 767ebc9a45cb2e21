import { decide, PlatformError, type DenialReason, type SandboxRequest } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";

/** What the record knows for certain; of everything else the host, which may be further, has the word. */
const certain: ReadonlySet<DenialReason> = new Set(["stop-pending", "already-stopped", "has-failed"]);

/** Refuses what the sandbox's state does not allow, as far as the record knows; the host has the last word. */
export function requireAllowed(row: SandboxRow, request: SandboxRequest): void {
  const reason = denialOf(row, request);
  if (reason !== undefined) throw wrongState(row, request, reason);
}

/** The same for a change of state: refuses only what no moment's change can make possible. */
export function requireNotEnded(row: SandboxRow, request: SandboxRequest): void {
  const reason = row.time_delete_requested === null || row.state === "stopped" ? denialOf(row, request) : "stop-pending";
  if (reason !== undefined && certain.has(reason)) throw wrongState(row, request, reason);
}

/** Talking to the guest: also possible while a running sandbox is saved. */
export function useOf(row: SandboxRow): SandboxRequest {
  return { kind: "use", hasVm: row.time_paused === null };
}

function denialOf(row: SandboxRow, request: SandboxRequest): DenialReason | undefined {
  const decision = decide(row.state, request);
  return decision.kind === "deny" ? decision.reason : undefined;
}

function wrongState(row: SandboxRow, request: SandboxRequest, reason: DenialReason): PlatformError {
  return new PlatformError("sandbox_wrong_state", `sandbox ${row.id} is ${row.state}: ${adviceOf(row, request, reason)}`);
}

function adviceOf(row: SandboxRow, request: SandboxRequest, reason: DenialReason): string {
  switch (reason) {
    case "not-running":
      return request.kind === "checkpoint"
        ? "it is saved already; a checkpoint is for one that runs"
        : `resume it with POST /v1/sandboxes/${row.id}/resume (\`roost resume ${row.id}\`); one created with auto_resume is resumed by itself`;
    case "not-paused":
      return "it is not paused";
    case "change-in-progress":
      return "try again when that is done";
    case "stop-pending":
      return "it is being deleted";
    case "already-stopped":
      return "it has ended";
    case "has-failed":
      return "its failure_reason says why; it can be deleted, or started once more from its disk: resume it with memory=false";
  }
}
