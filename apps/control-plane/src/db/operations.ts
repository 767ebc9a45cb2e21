import type { OperationKind } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { KeptAnswer, OperationFailure, OperationTable } from "./schema-operations.ts";

export type OperationRow = Selectable<OperationTable>;

export interface NewOperation {
  readonly id: string;
  readonly teamId: string;
  readonly kind: OperationKind;
  readonly subject: { readonly kind: string; readonly id: string };
  readonly made: readonly string[];
  /** What names it; null: nothing */
  readonly key: { readonly endpoint: string; readonly key: string; readonly requestHash: Uint8Array } | null;
  readonly endpoint: string | null;
  readonly claimedBy: string;
  readonly claimEnds: Date;
}

/** Records one that begins. False when another has its key. */
export async function insertOperation(db: Db, operation: NewOperation, now: Date): Promise<boolean> {
  const { key } = operation;
  const inserted = await db
    .insertInto("operation")
    .values({
      id: operation.id,
      team_id: operation.teamId,
      kind: operation.kind,
      endpoint: operation.endpoint,
      idempotency_key: key?.key ?? null,
      request_hash: key?.requestHash ?? null,
      subject_kind: operation.subject.kind,
      subject_id: operation.subject.id,
      made: JSON.stringify(operation.made),
      state: "running",
      step: "recorded",
      result: null,
      failure: null,
      claimed_by: operation.claimedBy,
      time_claim_ends: operation.claimEnds,
      time_created: now,
      time_ended: null,
    })
    .onConflict((conflict) => conflict.constraint("operation_of_key").doNothing())
    .executeTakeFirst();
  return (inserted.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

export interface OperationEnd {
  /** null: it succeeded */
  readonly failure: OperationFailure | null;
  readonly step: string;
  /** Whoever repeats it with its key begins anew */
  readonly freesKey: boolean;
  /** The answer, where it is kept together with the end */
  readonly kept: KeptAnswer | null;
}

/**
 * What an operation holds is given back, or becomes what its sandbox's record says, when it ends. The record is locked: it may be changing at this moment, and its
 * reservation stays as it is while that is held.
 */
function settleHeld(db: Db, operationId: string) {
  const holding = db
    .selectFrom("sandbox")
    .select(["id", "state", "time_paused"])
    .where("id", "in", db.selectFrom("reservation").select("sandbox_id").where("held_by", "=", operationId))
    .forNoKeyUpdate();
  return db
    .updateTable("reservation")
    .from(holding.as("record"))
    .set({ held_by: null, kind: sql<"running" | "paused">`reservation_kind(record.state, record.time_paused)` })
    .whereRef("record.id", "=", "reservation.sandbox_id")
    .where("reservation.held_by", "=", operationId);
}

/** Ends one that runs in these hands; false when others have it by now. */
export async function endOperation(
  db: Db,
  operation: { readonly id: string; readonly generation: number },
  end: OperationEnd,
  now: Date,
): Promise<boolean> {
  const result = await db
    .with("settled", () => settleHeld(db, operation.id))
    .updateTable("operation")
    .set({
      state: end.failure === null ? "succeeded" : "failed",
      failure: end.failure === null ? null : JSON.stringify(end.failure),
      step: end.step,
      ...(end.kept === null ? {} : { result: JSON.stringify(end.kept) }),
      ...(end.freesKey ? { idempotency_key: null } : {}),
      claimed_by: null,
      time_claim_ends: null,
      time_ended: now,
    })
    .where("id", "=", operation.id)
    .where("generation", "=", operation.generation)
    .where("state", "=", "running")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Keeps the answer to a request that named itself. */
export async function keepAnswer(db: Db, id: string, answer: KeptAnswer): Promise<void> {
  await db
    .updateTable("operation")
    .set({ result: JSON.stringify(answer) })
    .where("id", "=", id)
    .where("result", "is", null)
    .execute();
}

export async function findOperation(db: Db, teamId: string, id: string): Promise<OperationRow | undefined> {
  return db.selectFrom("operation").selectAll().where("id", "=", id).where("team_id", "=", teamId).executeTakeFirst();
}

export async function findOperationOfKey(
  db: Db,
  by: { readonly teamId: string; readonly endpoint: string; readonly key: string },
): Promise<OperationRow | undefined> {
  return db
    .selectFrom("operation")
    .selectAll()
    .where("team_id", "=", by.teamId)
    .where("endpoint", "=", by.endpoint)
    .where("idempotency_key", "=", by.key)
    .executeTakeFirst();
}

/** Newest first. */
export async function listOperations(
  db: Db,
  query: { readonly teamId: string; readonly subjectId?: string; readonly limit: number },
): Promise<OperationRow[]> {
  const { subjectId } = query;
  let select = db.selectFrom("operation").selectAll().where("team_id", "=", query.teamId).where("subject_kind", "<>", "build");
  if (subjectId !== undefined) {
    select = select.where((row) => row.or([row("subject_id", "=", subjectId), makes([subjectId])]));
  }
  return select.orderBy("time_created", "desc").orderBy("id", "desc").limit(query.limit).execute();
}

/** Whether an operation makes one of these sandboxes. */
function makes(sandboxIds: readonly string[]) {
  return sql<boolean>`made ?| ${sql.val([...sandboxIds])}::text[]`;
}

/** Operations that made or are making these sandboxes. */
export async function listMakersOf(db: Db, sandboxIds: readonly string[]): Promise<OperationRow[]> {
  if (sandboxIds.length === 0) return [];
  return db.selectFrom("operation").selectAll().where(makes(sandboxIds)).orderBy("time_created", "desc").execute();
}

/** Sandboxes that an operation which has not ended is at work on. */
export async function listBusySandboxes(db: Db): Promise<ReadonlySet<string>> {
  const running = await db.selectFrom("operation").select(["subject_id", "made"]).where("state", "=", "running").execute();
  return new Set(running.flatMap((row) => [row.subject_id, ...row.made]));
}

/** Says again that somebody works at these. */
export async function renewClaims(db: Db, claimedBy: string, ids: readonly string[], claimEnds: Date): Promise<void> {
  if (ids.length === 0) return;
  await db
    .updateTable("operation")
    .set({ time_claim_ends: claimEnds })
    .where("id", "in", ids)
    .where("claimed_by", "=", claimedBy)
    .where("state", "=", "running")
    .execute();
}

/** The same of one that these hands have; false when others have it by now, or it has ended. */
export async function renewClaim(
  db: Db,
  operation: { readonly id: string; readonly generation: number },
  claimEnds: Date,
): Promise<boolean> {
  const result = await db
    .updateTable("operation")
    .set({ time_claim_ends: claimEnds })
    .where("id", "=", operation.id)
    .where("generation", "=", operation.generation)
    .where("state", "=", "running")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Whoever looks next takes it over: what came of it is not known here. */
export async function abandonOperation(
  db: Db,
  operation: { readonly id: string; readonly generation: number },
  now: Date,
): Promise<boolean> {
  const result = await db
    .updateTable("operation")
    .set({ time_claim_ends: now, step: "abandoned" })
    .where("id", "=", operation.id)
    .where("generation", "=", operation.generation)
    .where("state", "=", "running")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Takes over operations that nobody works at any more, the longest abandoned first. `deadClaims`: all but one's own are. */
export async function claimAbandoned(
  db: Db,
  by: { readonly claimedBy: string; readonly claimEnds: Date; readonly limit: number; readonly deadClaims: boolean },
  now: Date,
): Promise<OperationRow[]> {
  let abandoned = db.selectFrom("operation").select("id").where("state", "=", "running");
  abandoned = abandoned.where((row) =>
    row.or([row("time_claim_ends", "<=", now), ...(by.deadClaims ? [row("claimed_by", "<>", by.claimedBy)] : [])]),
  );
  return db
    .updateTable("operation")
    .set((row) => ({ claimed_by: by.claimedBy, time_claim_ends: by.claimEnds, generation: row("generation", "+", 1) }))
    .where("id", "in", abandoned.orderBy("time_claim_ends").limit(by.limit).forUpdate().skipLocked())
    .returningAll()
    .execute();
}

/** Forgets what ended before `before`; answers how many. */
export async function forgetOperations(db: Db, before: Date): Promise<number> {
  const result = await db.deleteFrom("operation").where("state", "<>", "running").where("time_ended", "<", before).executeTakeFirst();
  return Number(result.numDeletedRows);
}

/** Keys of operations that ended before `before` mean nothing any more. */
export async function forgetKeys(db: Db, before: Date): Promise<void> {
  await db
    .updateTable("operation")
    .set({ idempotency_key: null, result: null })
    .where("idempotency_key", "is not", null)
    .where("time_ended", "<", before)
    .execute();
}
