import type { EventKind, SandboxState } from "@roost/contract";

import { unreachable } from "@roost/kit";

import type { HostEvent, HostEventAbout } from "./host-events.ts";
import type { SandboxRecord } from "./sandbox-record.ts";

/** States that a sandbox is in after an event; others say nothing of its state. */
const statesAfter: Partial<Record<EventKind, readonly SandboxState[]>> = {
  "sandbox.created": ["running"],
  "sandbox.resumed": ["running"],
  "sandbox.auto_resumed": ["running"],
  "sandbox.rolled_back": ["running"],
  "sandbox.paused": ["paused"],
  "sandbox.auto_paused": ["paused"],
  "sandbox.vm_lost": ["paused", "failed"],
  "sandbox.failed": ["failed"],
  "sandbox.stopped": ["stopped"],
  // on both hosts, before either has done its part
  "sandbox.moved": ["paused", "failed"],
};

export interface UntoldEvent extends HostEventAbout {
  readonly kind: EventKind;
}

/**
 * What happened to sandboxes by their records, and is not among the events: a crash came between. `records` are all of the host; `events` are all since `sinceMs`, oldest first. A sandbox of before of which nothing is
 * among them is passed over: its events were remembered once, and are not any more.
 */
export function untoldEvents(records: readonly SandboxRecord[], events: readonly HostEvent[], sinceMs: number): UntoldEvent[] {
  const last = new Map<string, EventKind>();
  for (const { kind, sandboxId } of events) if (sandboxId !== undefined && statesAfter[kind] !== undefined) last.set(sandboxId, kind);
  const untold = records.flatMap((record): UntoldEvent[] => {
    const { sandboxId } = record.spec;
    const told = last.get(sandboxId);
    last.delete(sandboxId);
    const isTold = told === undefined ? record.timeCreatedMs < sinceMs : statesAfter[told]?.includes(record.state) === true;
    const event = isTold ? undefined : eventOf(record, told !== undefined);
    return event === undefined ? [] : [{ sandboxId, ...event }];
  });
  // Nothing is left of those that were deleted; those that moved are elsewhere
  const deleted = [...last].filter(([, kind]) => kind !== "sandbox.stopped" && kind !== "sandbox.moved").map(([sandboxId]) => sandboxId);
  return [...untold, ...deleted.map((sandboxId): UntoldEvent => ({ kind: "sandbox.stopped", sandboxId, message: "sandbox was deleted" }))];
}

/** How it came to be what it is; undefined while that is still being changed. */
function eventOf(
  { state, failureReason, notice, stopReason }: SandboxRecord,
  wasThere: boolean,
): Pick<UntoldEvent, "kind" | "message" | "detail"> | undefined {
  switch (state) {
    case "running":
      return wasThere
        ? { kind: "sandbox.resumed", message: "sandbox was resumed" }
        : { kind: "sandbox.created", message: "sandbox was created" };
    case "paused":
      return notice === null
        ? { kind: "sandbox.paused", message: "sandbox was paused" }
        : { kind: "sandbox.vm_lost", message: notice, detail: { state } };
    case "failed":
      return { kind: wasThere ? "sandbox.vm_lost" : "sandbox.failed", message: failureReason ?? "the sandbox failed", detail: { state } };
    case "stopped":
      return { kind: "sandbox.stopped", message: `sandbox was stopped: ${stopReason ?? "it ended"}` };
    case "creating":
    case "pausing":
    case "resuming":
    case "snapshotting":
    case "stopping":
      return undefined; // recovery leaves none like that
    default:
      return unreachable(state);
  }
}
