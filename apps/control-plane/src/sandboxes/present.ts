import type { SandboxState } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import type { Presence } from "../db/list-sandboxes.ts";

/**
 * A record as readers see it at `now`. What was decided holds at once, before the host has carried it out: a sandbox that somebody deleted
 * or whose time is up is `stopping`, one that is paused when its time is up is `pausing`. Records themselves say what hosts said.
 */
export function present(row: SandboxRow, now: Date): SandboxRow {
  if (row.state === "stopped" || row.state === "failed") return row;
  if (row.time_delete_requested !== null) return row.state === "stopping" ? row : { ...row, state: "stopping" };
  if (!isOver(row, now)) return row;
  return { ...row, state: row.expiry_action === "pause" ? "pausing" : "stopping" };
}

/** Its time is up. One that is being paused already is left to that. */
function isOver(row: SandboxRow, now: Date): boolean {
  if (row.state !== "running" && row.state !== "snapshotting") return false;
  return row.time_expires !== null && row.time_expires <= now;
}

const isSaved: ReadonlySet<SandboxState> = new Set(["pausing", "paused", "resuming", "snapshotting"]);

/**
 * What a presented sandbox is to somebody who only knows "running" and "paused"; undefined: not there. One that is being saved runs on; one
 * that was created but never started, or has failed, is not there.
 */
export function presenceOf(row: SandboxRow): Presence | undefined {
  if (row.time_started === null) return undefined;
  if (row.state === "running" || (row.state === "snapshotting" && row.time_paused === null)) return "running";
  return isSaved.has(row.state) ? "paused" : undefined;
}
