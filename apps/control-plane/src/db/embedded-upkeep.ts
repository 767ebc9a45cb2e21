import { minute, ServiceLoop, type Logger } from "@roost/kit";
import { sql } from "kysely";

import type { Database, Db } from "./database.ts";

/** Time between two looks in `ms` */
const intervalMs = 1 * minute;
/** Rows that may have changed, or be dead, before a table is looked after, and the share of its rows that may be beside: a server's own defaults */
const changedRowsMin = 50;
const changedShare = 0.1;
const deadShare = 0.2;

/**
 * What a PostgreSQL server does by itself and an embedded one does not, which has no process for it: gives the room of rows that were changed or deleted back to their tables, and counts what is in
 * them. Without the first they grow with each change for ever; without the second the planner takes a table of ten thousand rows for one of thirty, and sorts all of it for a page of a list.
 */
export async function runEmbeddedUpkeep(
  { db, isExclusive }: Pick<Database, "db" | "isExclusive">,
  log: Logger,
  signal: AbortSignal,
): Promise<void> {
  if (!isExclusive) return;
  const loop = new ServiceLoop("upkeep of the embedded database", log, signal);
  await loop.every(intervalMs, async () => {
    const tables = await tidyTables(db, signal);
    if (tables.length > 0) log.debug({ tables }, "tidied tables of the embedded database");
  });
}

/** Looks after those tables that need it, one after the other, because everybody else waits meanwhile; answers which. */
export async function tidyTables(db: Db, signal?: AbortSignal): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    SELECT stat.relname AS name FROM pg_stat_user_tables stat JOIN pg_class class ON class.oid = stat.relid
     WHERE stat.n_mod_since_analyze > ${changedRowsMin} + ${changedShare}::float * greatest(class.reltuples, 0)
        OR stat.n_dead_tup > ${changedRowsMin} + ${deadShare}::float * greatest(class.reltuples, 0)
     ORDER BY stat.relname`.execute(db);
  const tidied: string[] = [];
  for (const { name } of rows) {
    if (signal?.aborted === true) break;
    await sql`VACUUM (ANALYZE) ${sql.table(name)}`.execute(db);
    tidied.push(name);
  }
  return tidied;
}
