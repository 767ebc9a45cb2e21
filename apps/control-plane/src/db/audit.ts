import type { AuditAction, AuditScope } from "@roost/contract";
import { must } from "@roost/kit";
import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { AuditEntryTable, AuditHeadTable } from "./schema-usage.ts";

export type AuditEntryRow = Selectable<AuditEntryTable>;
export type AuditHeadRow = Selectable<AuditHeadTable>;

/** The end of a chain, locked until the transaction ends: who appends waits for who appended before. */
export async function lockAuditHead(transaction: Db, chain: string, noHash: string): Promise<AuditHeadRow> {
  const [head] = await transaction
    .insertInto("audit_head")
    .values({ chain, number: 0, hash: noHash })
    // writes nothing new, but takes the row's lock, and answers what is there
    .onConflict((conflict) => conflict.column("chain").doUpdateSet({ number: sql<number>`audit_head.number` }))
    .returningAll()
    .execute();
  return must(head, "the end of the chain");
}

/** Appends entries of one chain, whose head is locked; the last of them is its new end. */
export async function appendAuditEntries(transaction: Db, entries: readonly AuditEntryRow[]): Promise<void> {
  const last = must(entries.at(-1), "an entry");
  await transaction
    .insertInto("audit_entry")
    .values(entries.map((entry) => ({ ...entry, detail: JSON.stringify(entry.detail) })))
    .execute();
  await transaction.updateTable("audit_head").set({ number: last.number, hash: last.hash }).where("chain", "=", last.chain).execute();
}

export async function findAuditHead(db: Db, chain: string): Promise<AuditHeadRow | undefined> {
  return db.selectFrom("audit_head").selectAll().where("chain", "=", chain).executeTakeFirst();
}

export async function listAuditHeads(db: Db): Promise<AuditHeadRow[]> {
  return db.selectFrom("audit_head").selectAll().orderBy("chain").execute();
}

/** Entries with numbers above `after`, the oldest first. */
export async function walkAudit(db: Db, chain: string, after: number, limit: number): Promise<AuditEntryRow[]> {
  return db
    .selectFrom("audit_entry")
    .selectAll()
    .where("chain", "=", chain)
    .where("number", ">", after)
    .orderBy("number")
    .limit(limit)
    .execute();
}

export interface AuditFilter {
  readonly chain: string;
  readonly scopes: readonly AuditScope[];
  readonly actorId?: string | undefined;
  readonly action?: AuditAction | undefined;
  readonly resourceKind?: string | undefined;
  readonly resourceId?: string | undefined;
  readonly status?: "success" | "failure" | undefined;
  readonly from?: Date | undefined;
  readonly to?: Date | undefined;
  /** Number of the last of the page before */
  readonly before?: number | undefined;
  readonly limit: number;
}

/** Newest first. */
export async function listAuditEntries(db: Db, filter: AuditFilter): Promise<AuditEntryRow[]> {
  const { chain, scopes, actorId, action, resourceKind, resourceId, status, from, to, before, limit } = filter;
  let query = db.selectFrom("audit_entry").selectAll().where("chain", "=", chain).where("scope", "in", scopes);
  if (actorId !== undefined) query = query.where("actor_id", "=", actorId);
  if (action !== undefined) query = query.where("action", "=", action);
  if (resourceKind !== undefined) query = query.where("resource_kind", "=", resourceKind);
  if (resourceId !== undefined) query = query.where("resource_id", "=", resourceId);
  if (status !== undefined) query = query.where("status", "=", status);
  if (from !== undefined) query = query.where("time_created", ">=", from);
  if (to !== undefined) query = query.where("time_created", "<", to);
  if (before !== undefined) query = query.where("number", "<", before);
  return query.orderBy("number", "desc").limit(limit).execute();
}

/** Number and hash of the newest entry from before `before`, but never of the chain's last one, which stays. */
export async function findLastBefore(db: Db, head: AuditHeadRow, before: Date): Promise<{ number: number; hash: string } | undefined> {
  return db
    .selectFrom("audit_entry")
    .select(["number", "hash"])
    .where("chain", "=", head.chain)
    .where("time_created", "<", before)
    .where("number", "<", head.number)
    .orderBy("number", "desc")
    .limit(1)
    .executeTakeFirst();
}

/** Removes entries up to a number, and writes down where the chain begins from then on. Its head is locked. */
export async function removeAuditEntries(transaction: Db, chain: string, upTo: { number: number; hash: string }): Promise<number> {
  const removed = await transaction
    .deleteFrom("audit_entry")
    .where("chain", "=", chain)
    .where("number", "<=", upTo.number)
    .executeTakeFirst();
  await transaction
    .updateTable("audit_head")
    .set({ kept_from: upTo.number + 1, removed_hash: upTo.hash })
    .where("chain", "=", chain)
    .execute();
  return Number(removed.numDeletedRows);
}
