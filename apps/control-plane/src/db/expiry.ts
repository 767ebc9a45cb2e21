import type { ExpiryAction } from "@roost/contract";
import { sql, type ExpressionBuilder, type ExpressionWrapper, type SqlBool } from "kysely";

import type { Db } from "./database.ts";
import type { OwnedId } from "./owned-id.ts";
import type { SandboxRow } from "./sandboxes.ts";
import type { Tables } from "./schema.ts";

/**
 * When sandboxes end by themselves. Each change is one guarded write, so whichever of an extension and an end comes first wins,
 * however many control planes there are: what is over cannot be extended, and what was extended in time is not over.
 */

type Row = ExpressionBuilder<Tables, "sandbox">;
type Condition = ExpressionWrapper<Tables, "sandbox", SqlBool>;

/** It runs, also while it is being saved, nobody has ended it, and its time is not up. */
function isRunning(row: Row, now: Date): Condition {
  return row.and([
    row("state", "in", ["running", "snapshotting"]),
    row("time_paused", "is", null),
    row("time_delete_requested", "is", null),
    row.or([row("time_expires", "is", null), row("time_expires", ">", now)]),
  ]);
}

/** Its time is up, and it is not to be paused then. One that is being paused is not: that was asked before. */
export function isExpired(row: Row, now: Date): Condition {
  return row.and([
    row("state", "in", ["running", "snapshotting"]),
    row("expiry_action", "=", "delete"),
    sql<boolean>`coalesce(time_expires <= ${now}, false)`,
  ]);
}

/**
 * Moves the end of a running sandbox to `sec` from `now`, where that is later. Answers the row, or undefined where nothing was to be moved.
 * Not `lasting`: after its next pause it has what it had before.
 */
export async function extendExpiry(
  db: Db,
  { id, team_id: teamId }: OwnedId,
  sec: number,
  now: Date,
  { lasting = true }: { readonly lasting?: boolean } = {},
): Promise<SandboxRow | undefined> {
  const end = after(now, sec);
  return db
    .updateTable("sandbox")
    .set({ time_expires: end, ...(lasting ? { expiry_sec: sec } : {}) })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where((row) => isRunning(row, now))
    .where("time_expires", "<", end)
    .returningAll()
    .executeTakeFirst();
}

/** Sets the end of a running sandbox to `sec` from `now`; 0: it is over now. Undefined when it does not run. */
export async function setExpiry(db: Db, { id, team_id: teamId }: OwnedId, sec: number, now: Date): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ time_expires: after(now, sec), expiry_sec: Math.max(sec, 1) })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where((row) => isRunning(row, now))
    .returningAll()
    .executeTakeFirst();
}

/**
 * Sets what a paused sandbox has from its next start on; one without an end keeps having none. False when nothing was set. Not while it is being
 * paused: should that fail it runs on, and its end is what it was made with.
 */
export async function setExpiryOfPaused(
  db: Db,
  { id, team_id: teamId }: OwnedId,
  change: { readonly sec: number; readonly action?: ExpiryAction | undefined },
): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({ expiry_sec: change.sec, ...(change.action === undefined ? {} : { expiry_action: change.action }) })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where((row) =>
      row.or([
        row("state", "in", ["paused", "resuming"]),
        row.and([row("state", "=", "snapshotting"), row("time_paused", "is not", null)]),
      ]),
    )
    .where("expiry_sec", ">", 0)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Records the end of at most `limit` sandboxes whose time is up, and that are not to be paused then. From here on they are gone. */
export async function claimExpired(db: Db, now: Date, limit: number): Promise<SandboxRow[]> {
  const due = db
    .selectFrom("sandbox")
    .select("id")
    .where("time_expires", "<=", now)
    .where("expiry_action", "=", "delete")
    .where("time_delete_requested", "is", null)
    .where("state", "in", ["running", "snapshotting"])
    .orderBy("time_expires")
    .limit(limit);
  return (
    db
      .updateTable("sandbox")
      .set({ time_delete_requested: now })
      .where("id", "in", due)
      // again, for the row as it is when it is locked
      .where("time_expires", "<=", now)
      .where("time_delete_requested", "is", null)
      .returningAll()
      .execute()
  );
}

/** Running sandboxes whose time is up, and that are to be paused then; longest waiting first. */
export async function listToPause(db: Db, now: Date, limit: number): Promise<SandboxRow[]> {
  return db
    .selectFrom("sandbox")
    .selectAll()
    .where("time_expires", "<=", now)
    .where("expiry_action", "=", "pause")
    .where("time_delete_requested", "is", null)
    .where("state", "in", ["running", "snapshotting"])
    .orderBy("time_expires")
    .limit(limit)
    .execute();
}

/** Gives a sandbox that could not be paused time until `until`, unless its end has changed since `seen` was read. */
export async function postponeExpiry(db: Db, seen: SandboxRow, until: Date): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ time_expires: until })
    .where("id", "=", seen.id)
    .where("state", "in", ["running", "snapshotting", "pausing"]) // the host may not have said yet that it runs on
    .where("time_expires", "=", seen.time_expires)
    .returningAll()
    .executeTakeFirst();
}

/** The earliest end that is still to come. */
export async function nextExpiry(db: Db, now: Date): Promise<Date | undefined> {
  const row = await db
    .selectFrom("sandbox")
    .select("time_expires")
    .where("time_expires", ">", now)
    .where("time_delete_requested", "is", null)
    .orderBy("time_expires")
    .limit(1)
    .executeTakeFirst();
  return row?.time_expires ?? undefined;
}

/** Marks a sandbox to be deleted, unless it was already, or is gone as of `now`; undefined then. */
export async function claimDelete(db: Db, { id, team_id: teamId }: OwnedId, now: Date): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ time_delete_requested: now })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("for_build_id", "is", null)
    .where("time_delete_requested", "is", null)
    .where("state", "not in", ["stopping", "stopped"])
    .where((row) => row.not(isExpired(row, now)))
    .returningAll()
    .executeTakeFirst();
}

function after(now: Date, sec: number): Date {
  return new Date(now.getTime() + sec * 1000);
}
