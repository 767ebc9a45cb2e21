import type { UsageAmounts, UsageGroup } from "@roost/contract";
import { sql, type RawBuilder } from "kysely";

import type { Db } from "./database.ts";
import { timeOnHost } from "./moves.ts";

/** A part of time; `to` is not in it. */
export interface Span {
  readonly from: Date;
  readonly to: Date;
}

/** What of an interval is within the span, in s; `now`: until when those are counted that go on. */
function secondsIn({ from, to }: { readonly from: RawBuilder<Date>; readonly to: RawBuilder<Date> }): RawBuilder<number> {
  return sql<number>`extract(epoch FROM least(coalesce(time_ended, ${to}), ${to}) - greatest(time_started, ${from}))`;
}

/** Sums over rows with `seconds`; float8, because memory times a month is more than an int8's worth of trailing digits is worth. */
const sums = sql`
  coalesce(sum(seconds) FILTER (WHERE state = 'running'), 0)::float8 AS sandbox_seconds,
  coalesce(sum(seconds * vcpus) FILTER (WHERE state = 'running'), 0)::float8 AS vcpu_seconds,
  coalesce(sum(seconds * memory_mib) FILTER (WHERE state = 'running'), 0)::float8 AS memory_mib_seconds,
  coalesce(sum(seconds * disk_size_mib), 0)::float8 AS disk_mib_seconds`;

/** Intervals of a team that reach into the span. Intervals that go on are counted up to its end, so it must not be in the future. */
function ofSpan(teamId: string, { from, to }: Span): RawBuilder<unknown> {
  return sql`team_id = ${teamId} AND time_started < ${to}::timestamptz AND (time_ended IS NULL OR time_ended > ${from}::timestamptz)`;
}

export type UsageRow = UsageAmounts & { readonly key: string };

export async function totalUsage(db: Db, teamId: string, span: Span): Promise<UsageAmounts> {
  const bounds = { from: sql<Date>`${span.from}::timestamptz`, to: sql<Date>`${span.to}::timestamptz` };
  const { rows } = await sql<UsageAmounts>`
    SELECT ${sums} FROM (
      SELECT *, ${secondsIn(bounds)} AS seconds FROM sandbox_interval WHERE ${ofSpan(teamId, span)}
    ) AS part`.execute(db);
  return rows[0] ?? { sandbox_seconds: 0, vcpu_seconds: 0, memory_mib_seconds: 0, disk_mib_seconds: 0 };
}

/** Usage in groups: days in order, from the first to the last with any; others those first that used most. */
export async function usageBy(db: Db, teamId: string, span: Span, group: UsageGroup, limit: number): Promise<UsageRow[]> {
  if (group === "day") return usageByDay(db, teamId, span, limit);
  const bounds = { from: sql<Date>`${span.from}::timestamptz`, to: sql<Date>`${span.to}::timestamptz` };
  const key = sql.ref(group === "sandbox" ? "sandbox_id" : "template");
  const { rows } = await sql<UsageRow>`
    SELECT ${key} AS key, ${sums} FROM (
      SELECT *, ${secondsIn(bounds)} AS seconds FROM sandbox_interval WHERE ${ofSpan(teamId, span)}
    ) AS part GROUP BY ${key} ORDER BY vcpu_seconds DESC, disk_mib_seconds DESC, key LIMIT ${limit}`.execute(db);
  return rows;
}

/**
 * Each interval is cut at midnights (UTC), so a day has what was used on that day. Days are counted without a time zone: with one, adding a day means the
 * session's, which is of the server, and there two days a year have 23 or 25 hours.
 */
async function usageByDay(db: Db, teamId: string, span: Span, limit: number): Promise<UsageRow[]> {
  const bounds = {
    from: sql<Date>`greatest(day AT TIME ZONE 'UTC', ${span.from}::timestamptz)`,
    to: sql<Date>`least((day + interval '1 day') AT TIME ZONE 'UTC', ${span.to}::timestamptz)`,
  };
  const { rows } = await sql<UsageRow>`
    SELECT to_char(day, 'YYYY-MM-DD') AS key, ${sums} FROM (
      SELECT sandbox_interval.*, day, ${secondsIn(bounds)} AS seconds
        FROM sandbox_interval, generate_series(
          date_trunc('day', greatest(time_started, ${span.from}::timestamptz) AT TIME ZONE 'UTC'),
          (least(coalesce(time_ended, ${span.to}::timestamptz), ${span.to}::timestamptz) - interval '1 microsecond') AT TIME ZONE 'UTC',
          interval '1 day') AS day
       WHERE ${ofSpan(teamId, span)}
    ) AS part GROUP BY day ORDER BY day LIMIT ${limit}`.execute(db);
  return rows;
}

/** What ran at once. */
export interface Load {
  readonly running: number;
  readonly vcpus: number;
  readonly memory_mb: number;
}

export interface LoadStep extends Load {
  /** Number of the step from the span's begin; the most of each within it */
  readonly step: number;
  readonly last_running: number;
  readonly last_vcpus: number;
  readonly last_memory_mb: number;
}

/** What runs and is paused now. */
export async function loadNow(db: Db, teamId: string): Promise<Load & { readonly paused: number }> {
  const { rows } = await sql<Load & { paused: number }>`
    SELECT count(*) FILTER (WHERE state = 'running')::int AS running,
           coalesce(sum(vcpus) FILTER (WHERE state = 'running'), 0)::int AS vcpus,
           coalesce(sum(memory_mib) FILTER (WHERE state = 'running'), 0)::int AS memory_mb,
           count(*) FILTER (WHERE state = 'paused')::int AS paused
      FROM sandbox_interval WHERE team_id = ${teamId} AND time_ended IS NULL AND NOT is_build`.execute(db);
  return rows[0] ?? { running: 0, vcpus: 0, memory_mb: 0, paused: 0 };
}

/**
 * How the load changed, in steps: starts add and ends take away, in order of time, so no instant is missed, however short. Steps in which nothing
 * began or ended are left out: the load stayed what it was last. Step -1 is the load at the span's begin.
 */
export async function loadSteps(db: Db, teamId: string, span: Span, stepSec: number): Promise<LoadStep[]> {
  const { rows } = await sql<LoadStep>`
    WITH part AS (
      SELECT time_started, time_ended, vcpus, memory_mib FROM sandbox_interval
       WHERE ${ofSpan(teamId, span)} AND state = 'running' AND NOT is_build
    ), edge AS (
      SELECT greatest(time_started, ${span.from}::timestamptz) AS instant, time_started < ${span.from}::timestamptz AS is_before,
             1 AS running, vcpus, memory_mib FROM part
      UNION ALL
      SELECT time_ended, false, -1, -vcpus, -memory_mib FROM part WHERE time_ended < ${span.to}::timestamptz
    ), level AS (
      SELECT instant, is_before, sum(running) AS running, sum(vcpus) AS vcpus, sum(memory_mib) AS memory_mib
        FROM edge GROUP BY instant, is_before
    ), walk AS (
      SELECT CASE WHEN is_before THEN -1 ELSE floor(extract(epoch FROM instant - ${span.from}::timestamptz) / ${stepSec}::int)::int END AS step,
             sum(running) OVER ordered AS running, sum(vcpus) OVER ordered AS vcpus, sum(memory_mib) OVER ordered AS memory_mib,
             row_number() OVER ordered AS position
        FROM level WINDOW ordered AS (ORDER BY instant, is_before DESC ROWS UNBOUNDED PRECEDING)
    )
    SELECT step, max(running)::int AS running, max(vcpus)::int AS vcpus, max(memory_mib)::int AS memory_mb,
           (array_agg(running ORDER BY position DESC))[1]::int AS last_running,
           (array_agg(vcpus ORDER BY position DESC))[1]::int AS last_vcpus,
           (array_agg(memory_mib ORDER BY position DESC))[1]::int AS last_memory_mb
      FROM walk GROUP BY step ORDER BY step`.execute(db);
  return rows;
}

/** Intervals that ended before `before` are forgotten; answers how many. */
export async function forgetIntervals(db: Db, before: Date): Promise<number> {
  const result = await db.deleteFrom("sandbox_interval").where("time_ended", "<", before).executeTakeFirst();
  return Number(result.numDeletedRows);
}

/** What a host tells of a sandbox afterwards. */
export interface PastChange {
  readonly sandboxId: string;
  readonly hostId: string;
  readonly state: "running" | "paused";
  readonly time: Date;
}

/**
 * A sandbox was paused or resumed at an instant that lies within a known interval: its host remembers what happened while nobody listened. Anything
 * else changes nothing: what goes on is decided by its state, and what another host says of it counts for nothing.
 */
export async function splitInterval(db: Db, { sandboxId, hostId, state, time }: PastChange): Promise<boolean> {
  return db.transaction().execute(async (transaction) => {
    const sandbox = await transaction
      .selectFrom("sandbox")
      .select(["id", "host_id"])
      .where("id", "=", sandboxId)
      .forUpdate()
      .executeTakeFirst();
    const instant = sandbox && (await timeOnHost(transaction, sandbox, { hostId, time }));
    if (instant === undefined) return false;
    const around = await transaction
      .selectFrom("sandbox_interval")
      .selectAll()
      .where("sandbox_id", "=", sandboxId)
      .where("time_started", "<", instant)
      .where((row) => row.or([row("time_ended", "is", null), row("time_ended", ">", instant)]))
      .executeTakeFirst();
    if (around === undefined || around.state === state) return false;
    await transaction
      .updateTable("sandbox_interval")
      .set({ time_ended: instant })
      .where("sandbox_id", "=", sandboxId)
      .where("time_started", "=", around.time_started)
      .execute();
    await transaction
      .insertInto("sandbox_interval")
      .values({ ...around, state, time_started: instant })
      .execute();
    return true;
  });
}
