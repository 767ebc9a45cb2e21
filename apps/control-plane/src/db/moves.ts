import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { SandboxRow } from "./sandboxes.ts";
import type { SandboxMoveTable } from "./schema-moves.ts";

export type MoveRow = Selectable<SandboxMoveTable>;

export interface NewMove {
  readonly sandboxId: string;
  readonly moveId: string;
  readonly fromHostId: string;
  readonly toHostId: string;
}

/** Begins to move a sandbox that is where it was seen; false when it is not, is to end, or is being moved already. What it needs there is reserved with it. */
export async function insertMove(db: Db, move: NewMove, now: Date): Promise<boolean> {
  const from = db
    .selectFrom("sandbox")
    .select((row) => [
      "id as sandbox_id",
      sql<string>`${move.moveId}::uuid`.as("move_id"),
      "host_id as from_host_id",
      sql<string>`${move.toHostId}`.as("to_host_id"),
      sql<"copying">`'copying'`.as("step"),
      row("state", "=", "running").as("resumes"),
      "time_expires",
      "expiry_sec",
      sql<Date>`${now}::timestamptz`.as("time_next"),
      sql<Date>`${now}::timestamptz`.as("time_started"),
    ])
    .where("id", "=", move.sandboxId)
    .where("host_id", "=", move.fromHostId)
    .where("state", "in", ["running", "paused", "failed"])
    .where("time_delete_requested", "is", null)
    .where("time_lost", "is", null)
    .where("for_build_id", "is", null);
  const result = await db
    .insertInto("sandbox_move")
    .columns([
      "sandbox_id",
      "move_id",
      "from_host_id",
      "to_host_id",
      "step",
      "resumes",
      "time_expires",
      "expiry_sec",
      "time_next",
      "time_started",
    ])
    .expression(from)
    .onConflict((conflict) => conflict.column("sandbox_id").doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

/** Moves that this control plane works at until `claimEnds`: those that it had, and those that are due and nobody has. */
export async function claimMoves(db: Db, who: string, now: Date, claimEnds: Date, limit: number): Promise<MoveRow[]> {
  await db.updateTable("sandbox_move").set({ time_claim_ends: claimEnds }).where("claimed_by", "=", who).execute();
  const free = db
    .selectFrom("sandbox_move")
    .select("sandbox_id")
    .where("time_next", "<=", now)
    .where((row) => row.or([row("claimed_by", "is", null), row("claimed_by", "=", who), row("time_claim_ends", "<", now)]))
    .orderBy("time_next")
    .limit(limit)
    .forUpdate()
    .skipLocked();
  return db
    .updateTable("sandbox_move")
    .set({ claimed_by: who, time_claim_ends: claimEnds })
    .where("sandbox_id", "in", free)
    .returningAll()
    .execute();
}

/** Lets others take these over, not before `next`. */
export async function releaseMove(db: Db, moveId: string, who: string, next: Date): Promise<void> {
  await db
    .updateTable("sandbox_move")
    .set({ claimed_by: null, time_claim_ends: null, time_next: next })
    .where("move_id", "=", moveId)
    .where("claimed_by", "=", who)
    .execute();
}

/** All that a control plane which ends has claimed. */
export async function releaseMoves(db: Db, who: string): Promise<void> {
  await db.updateTable("sandbox_move").set({ claimed_by: null, time_claim_ends: null }).where("claimed_by", "=", who).execute();
}

export async function findMove(db: Db, moveId: string): Promise<MoveRow | undefined> {
  return db.selectFrom("sandbox_move").selectAll().where("move_id", "=", moveId).executeTakeFirst();
}

export async function listMovesFrom(db: Db, hostId: string): Promise<MoveRow[]> {
  return db.selectFrom("sandbox_move").selectAll().where("from_host_id", "=", hostId).execute();
}

/** Ids of all that there are. */
export async function listMoveIds(db: Db): Promise<ReadonlySet<string>> {
  const rows = await db.selectFrom("sandbox_move").select("move_id").execute();
  return new Set(rows.map((row) => row.move_id));
}

/** Decides that a move is not to be, and why; false when it was decided already. */
export async function undoMove(db: Db, moveId: string, problem: string, next: Date): Promise<boolean> {
  const result = await db
    .updateTable("sandbox_move")
    .set({ step: "undone", problem, time_next: next })
    .where("move_id", "=", moveId)
    .where("step", "=", "copying")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Why one that was undone cannot be tried anew now. */
export async function noteMoveProblem(db: Db, moveId: string, problem: string): Promise<void> {
  await db.updateTable("sandbox_move").set({ problem }).where("move_id", "=", moveId).where("step", "=", "undone").execute();
}

/**
 * The move itself, in a transaction: from here on the sandbox is the new host's. `generation`: of the copy there, which is above that of the old one, so that nothing that the old host or
 * a late answer of it says is news. Undefined, and nothing is to be written: it was decided otherwise, somebody has ended the sandbox, or it is not what was copied.
 */
export async function commitMove(
  db: Db,
  move: MoveRow,
  copied: { readonly from: number; readonly generation: number; readonly network: SandboxRow["network"] },
  now: Date,
): Promise<SandboxRow | undefined> {
  const decided = await db
    .updateTable("sandbox_move")
    .set({ step: "moved" })
    .where("move_id", "=", move.move_id)
    .where("step", "=", "copying")
    .executeTakeFirst();
  if (decided.numUpdatedRows === 0n) return undefined;
  await db
    .insertInto("sandbox_left")
    .values({ sandbox_id: move.sandbox_id, host_id: move.from_host_id, time_left: now })
    .onConflict((conflict) => conflict.columns(["sandbox_id", "host_id"]).doUpdateSet({ time_left: now }))
    .execute();
  return db
    .updateTable("sandbox")
    .set({ host_id: move.to_host_id, generation: copied.generation })
    .where("id", "=", move.sandbox_id)
    .where("host_id", "=", move.from_host_id)
    .where("generation", "<=", copied.from)
    .where(sql<boolean>`network = ${JSON.stringify(copied.network)}::jsonb`) // what its new host was told
    .where("state", "in", ["paused", "failed"])
    .where("time_delete_requested", "is", null)
    .where("time_lost", "is", null)
    .returningAll()
    .executeTakeFirst();
}

/**
 * When something happened to a sandbox on a host of which the host tells now: at the instant that it says, or, where the sandbox was moved away since, before that. Undefined: the
 * sandbox was never that host's, and what is said of it counts for nothing.
 */
export async function timeOnHost(
  db: Db,
  sandbox: Pick<SandboxRow, "id" | "host_id">,
  told: { readonly hostId: string; readonly time: Date },
): Promise<Date | undefined> {
  if (sandbox.host_id === told.hostId) return told.time;
  const left = (await timesLeft(db, told.hostId, [sandbox.id])).get(sandbox.id);
  if (left === undefined) return undefined;
  return told.time < left ? told.time : left;
}

/** When sandboxes were moved away from a host, the last time; those that never were are not in it. */
export async function timesLeft(db: Db, hostId: string, ids: readonly string[]): Promise<ReadonlyMap<string, Date>> {
  if (ids.length === 0) return new Map();
  const rows = await db.selectFrom("sandbox_left").selectAll().where("host_id", "=", hostId).where("sandbox_id", "in", ids).execute();
  return new Map(rows.map((row) => [row.sandbox_id, row.time_left]));
}

/** Tries one that was undone anew, to another host or the same; false when it is another one by now. */
export async function renewMove(
  db: Db,
  move: MoveRow,
  next: { readonly moveId: string; readonly toHostId: string },
  now: Date,
): Promise<boolean> {
  const result = await db
    .updateTable("sandbox_move")
    .set({ move_id: next.moveId, to_host_id: next.toHostId, step: "copying", problem: null, time_next: now })
    .where("move_id", "=", move.move_id)
    .where("step", "=", "undone")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** One that is done is undone in the other direction: what ran and could not run again where it was moved to goes on from there. */
export async function turnMove(db: Db, move: MoveRow): Promise<void> {
  await db
    .updateTable("sandbox_move")
    .set({ from_host_id: move.to_host_id, to_host_id: move.from_host_id, step: "undone" })
    .where("move_id", "=", move.move_id)
    .where("step", "=", "moved")
    .execute();
}

export async function deleteMove(db: Db, moveId: string): Promise<void> {
  await db.deleteFrom("sandbox_move").where("move_id", "=", moveId).execute();
}

/** Somebody wants the sandbox paused: it is not to run again when it has been moved. */
export async function moveWithoutResume(db: Db, sandboxId: string): Promise<void> {
  await db.updateTable("sandbox_move").set({ resumes: false }).where("sandbox_id", "=", sandboxId).execute();
}

/** A sandbox that runs again after a move has as much time as it had before; unless it was given other time meanwhile. */
export async function restoreExpiry(db: Db, move: MoveRow): Promise<SandboxRow | undefined> {
  if (move.time_expires === null) return undefined;
  return db
    .updateTable("sandbox")
    .set({ time_expires: move.time_expires })
    .where("id", "=", move.sandbox_id)
    .where("state", "=", "running")
    .where("expiry_sec", "=", move.expiry_sec)
    .where("time_expires", ">", move.time_expires)
    .returningAll()
    .executeTakeFirst();
}

/** Why a sandbox cannot start where it is now, and where waiting helps: it is being moved away, or is about to be. */
export async function findLeaving(db: Db, sandboxId: string): Promise<"moves" | "waits" | undefined> {
  const row = await db
    .selectFrom("sandbox")
    .leftJoin("host", "host.id", "sandbox.host_id")
    .leftJoin("sandbox_move", "sandbox_move.sandbox_id", "sandbox.id")
    .select(["host.drain_mode as mode", "sandbox_move.step as step", "sandbox_move.resumes as resumes"])
    .where("sandbox.id", "=", sandboxId)
    .executeTakeFirst();
  if (row?.step === "copying" || (row?.step === "undone" && row.resumes === true)) return "moves";
  return row?.mode === "move" ? "waits" : undefined;
}

/** What a drain that moves needs to know of a sandbox. */
export async function listToMove(db: Db, hostId: string): Promise<SandboxRow[]> {
  return db
    .selectFrom("sandbox")
    .selectAll()
    .where("host_id", "=", hostId)
    .where("state", "<>", "stopped")
    .orderBy("time_last_active", "desc")
    .orderBy("id")
    .execute();
}
