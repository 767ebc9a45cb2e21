import type { Db } from "./database.ts";

/** Sandboxes on hosts that nothing explains, and since when. */

/** Records those that are seen; answers those that were not before. */
export async function seeStrays(db: Db, hostId: string, sandboxIds: readonly string[], now: Date): Promise<string[]> {
  if (sandboxIds.length === 0) return [];
  const rows = await db
    .insertInto("stray")
    .values(sandboxIds.map((id) => ({ host_id: hostId, sandbox_id: id, time_first_seen: now })))
    .onConflict((conflict) => conflict.doNothing())
    .returning("sandbox_id")
    .execute();
  return rows.map((row) => row.sandbox_id);
}

/** Forgets those of a host that are not among these any more. */
export async function forgetStrays(db: Db, hostId: string, except: readonly string[]): Promise<void> {
  await db
    .deleteFrom("stray")
    .where("host_id", "=", hostId)
    .$if(except.length > 0, (query) => query.where("sandbox_id", "not in", except))
    .execute();
}

/** Those that have been seen since `before`. */
export async function listOverdueStrays(db: Db, hostId: string, before: Date): Promise<string[]> {
  const rows = await db
    .selectFrom("stray")
    .select("sandbox_id")
    .where("host_id", "=", hostId)
    .where("time_first_seen", "<=", before)
    .execute();
  return rows.map((row) => row.sandbox_id);
}
