import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { SandboxMetricMarkTable, SandboxMetricTable } from "./schema-usage.ts";

export type MetricRow = Selectable<SandboxMetricTable>;
export type MetricMark = Selectable<SandboxMetricMarkTable>;
export type MetricStepSec = MetricRow["step_sec"];

/** Rows of one insert: 7 values each, PostgreSQL takes 65,535 in a statement */
const insertRowsMax = 2_000;
/** Rows that one delete removes; more are for the next round */
const deleteRowsMax = 20_000;

/** A sandbox whose metrics are to be collected, and up to when they are here already. */
export interface DueSandbox {
  readonly id: string;
  readonly hostId: string;
  readonly state: string;
  readonly timeStored: Date;
}

/**
 * Takes sandboxes whose metrics are due, for until `claimEnds`: those that run and were stored last before `before`, and those that were paused since.
 * Others who ask get others.
 */
export async function claimDueMetrics(
  db: Db,
  { hostIds, before, now, claimEnds, limit }: { hostIds: readonly string[]; before: Date; now: Date; claimEnds: Date; limit: number },
): Promise<DueSandbox[]> {
  if (hostIds.length === 0) return [];
  const { rows } = await sql<DueSandbox>`
    WITH due AS (
      SELECT sandbox.id, sandbox.host_id, sandbox.state
        FROM sandbox LEFT JOIN sandbox_metric_mark AS mark ON mark.sandbox_id = sandbox.id
       WHERE sandbox.host_id IN (${sql.join(hostIds)})
         AND (sandbox.state = 'running' AND coalesce(mark.time_stored, sandbox.time_created) < ${before}
              OR sandbox.state = 'paused' AND coalesce(mark.time_stored, to_timestamp(0)) < coalesce(sandbox.time_paused, sandbox.time_state_updated))
         AND coalesce(mark.time_claim_ends <= ${now}, true)
       ORDER BY mark.time_stored NULLS FIRST LIMIT ${limit}
    ), claimed AS (
      INSERT INTO sandbox_metric_mark (sandbox_id, time_stored, memory_total_bytes, disk_total_bytes, time_claim_ends)
        SELECT id, to_timestamp(0), 0, 0, ${claimEnds}::timestamptz FROM due
      ON CONFLICT (sandbox_id) DO UPDATE SET time_claim_ends = excluded.time_claim_ends WHERE sandbox_metric_mark.time_claim_ends <= ${now}
      RETURNING sandbox_id, time_stored
    )
    SELECT due.id, due.host_id AS "hostId", due.state, claimed.time_stored AS "timeStored" FROM due JOIN claimed ON claimed.sandbox_id = due.id`.execute(
    db,
  );
  return rows;
}

/** What was collected of one sandbox: averages of steps of 10 s, and up to when they are whole. */
export interface CollectedMetrics {
  readonly sandboxId: string;
  readonly rows: readonly Omit<MetricRow, "sandbox_id" | "step_sec">[];
  readonly timeStored: Date;
  readonly memoryTotalBytes: number;
  readonly diskTotalBytes: number;
}

/** Stores steps of 10 s, and makes the coarser ones that they are part of anew; ends the claims. One transaction for any number of sandboxes. */
export async function storeMetrics(db: Db, collected: readonly CollectedMetrics[]): Promise<void> {
  const rows = collected.flatMap(({ sandboxId, rows: steps }) =>
    steps.map((step) => ({ sandbox_id: sandboxId, step_sec: 10 as const, ...step })),
  );
  await db.transaction().execute(async (transaction) => {
    for (let start = 0; start < rows.length; start += insertRowsMax) {
      await transaction
        .insertInto("sandbox_metric")
        .values(rows.slice(start, start + insertRowsMax))
        .onConflict((conflict) =>
          conflict.columns(["sandbox_id", "step_sec", "time_started"]).doUpdateSet((row) => ({
            cpu_percent: row.ref("excluded.cpu_percent"),
            memory_bytes: row.ref("excluded.memory_bytes"),
            cache_bytes: row.ref("excluded.cache_bytes"),
            disk_bytes: row.ref("excluded.disk_bytes"),
          })),
        )
        .execute();
    }
    const oldest = rows.reduce((least, { time_started }) => Math.min(least, time_started.getTime()), Number.POSITIVE_INFINITY);
    const ids = [...new Set(rows.map(({ sandbox_id }) => sandbox_id))];
    if (ids.length > 0) {
      await rollUp(transaction, ids, 10, 60, new Date(oldest));
      await rollUp(transaction, ids, 60, 600, new Date(oldest));
    }
    for (const { sandboxId, timeStored, memoryTotalBytes, diskTotalBytes } of collected) {
      const mark = {
        time_stored: timeStored,
        memory_total_bytes: memoryTotalBytes,
        disk_total_bytes: diskTotalBytes,
        time_claim_ends: new Date(0),
      };
      await transaction
        .insertInto("sandbox_metric_mark")
        .values({ sandbox_id: sandboxId, ...mark })
        .onConflict((conflict) => conflict.column("sandbox_id").doUpdateSet(mark))
        .execute();
    }
  });
}

/** Averages of the steps of one tier are the next one's. */
async function rollUp(db: Db, ids: readonly string[], fromSec: MetricStepSec, toSec: MetricStepSec, since: Date): Promise<void> {
  const begin = new Date(Math.floor(since.getTime() / (toSec * 1_000)) * toSec * 1_000);
  await sql`
    INSERT INTO sandbox_metric (sandbox_id, step_sec, time_started, cpu_percent, memory_bytes, cache_bytes, disk_bytes)
    SELECT sandbox_id, ${toSec}::int, date_bin(make_interval(secs => ${toSec}::int), time_started, to_timestamp(0)) AS step,
           avg(cpu_percent), avg(memory_bytes), avg(cache_bytes), avg(disk_bytes)
      FROM sandbox_metric
     WHERE sandbox_id IN (${sql.join(ids)}) AND step_sec = ${fromSec}::int AND time_started >= ${begin}::timestamptz
     GROUP BY sandbox_id, step
    ON CONFLICT (sandbox_id, step_sec, time_started) DO UPDATE SET cpu_percent = excluded.cpu_percent,
      memory_bytes = excluded.memory_bytes, cache_bytes = excluded.cache_bytes, disk_bytes = excluded.disk_bytes`.execute(db);
}

/** Steps of one length from an instant on, oldest first. */
export async function listMetrics(db: Db, sandboxId: string, stepSec: MetricStepSec, since: Date, limit: number): Promise<MetricRow[]> {
  const newest = await db
    .selectFrom("sandbox_metric")
    .selectAll()
    .where("sandbox_id", "=", sandboxId)
    .where("step_sec", "=", stepSec)
    .where("time_started", ">=", since)
    .orderBy("time_started", "desc")
    .limit(limit)
    .execute();
  return newest.reverse();
}

export async function findMetricMark(db: Db, sandboxId: string): Promise<MetricMark | undefined> {
  return db.selectFrom("sandbox_metric_mark").selectAll().where("sandbox_id", "=", sandboxId).executeTakeFirst();
}

/** Forgets steps of one length from before `before`, at most as many as one statement should; answers how many. */
export async function forgetMetrics(db: Db, stepSec: MetricStepSec, before: Date): Promise<number> {
  const { numAffectedRows } = await sql`
    DELETE FROM sandbox_metric WHERE ctid = ANY (ARRAY(
      SELECT ctid FROM sandbox_metric WHERE step_sec = ${stepSec}::int AND time_started < ${before}::timestamptz LIMIT ${deleteRowsMax}
    ))`.execute(db);
  return Number(numAffectedRows ?? 0n);
}

/** Forgets the marks of sandboxes that are no more, and have nothing left. */
export async function forgetMetricMarks(db: Db, before: Date): Promise<void> {
  await sql`
    DELETE FROM sandbox_metric_mark AS mark WHERE time_stored < ${before}::timestamptz
       AND NOT EXISTS (SELECT 1 FROM sandbox WHERE sandbox.id = mark.sandbox_id)
       AND NOT EXISTS (SELECT 1 FROM sandbox_metric WHERE sandbox_metric.sandbox_id = mark.sandbox_id)`.execute(db);
}
