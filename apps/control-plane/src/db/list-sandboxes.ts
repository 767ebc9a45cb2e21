import type { SandboxState } from "@roost/contract";
import { sql, type ExpressionBuilder, type ExpressionWrapper, type SqlBool } from "kysely";

import type { Db } from "./database.ts";
import { isExpired } from "./expiry.ts";
import type { SandboxRow } from "./sandboxes.ts";
import type { Tables } from "./schema.ts";

/** Which sandboxes. */
export interface SandboxFilter {
  readonly teamId: string;
  readonly states?: readonly SandboxState[];
  readonly template?: string;
  readonly metadata?: Readonly<Record<string, string>>;
}

export interface SandboxPageQuery extends SandboxFilter {
  /** Last of the page before */
  readonly after?: { readonly timeCreated: Date; readonly id: string };
  readonly limit: number;
}

/** Newest first. A later page begins where the index says; it does not walk over those before. */
export async function listSandboxes(db: Db, query: SandboxPageQuery): Promise<SandboxRow[]> {
  const { states, after } = query;
  let select = db.selectFrom("sandbox").selectAll();
  select = states === undefined ? select.where("state", "<>", "stopped") : select.where("state", "in", states.length === 0 ? [] : states);
  select = select.where((row) => matches(row, query));
  if (after !== undefined) {
    select = select.where(sql<boolean>`(time_created, id) < (${after.timeCreated}::timestamptz, ${after.id})`);
  }
  return select.orderBy("time_created", "desc").orderBy("id", "desc").limit(query.limit).execute();
}

/** What a sandbox is to somebody who only knows "running" and "paused". */
export type Presence = "running" | "paused";

export interface PresentFilter extends Omit<SandboxFilter, "states"> {
  /** Default: both */
  readonly presence?: readonly Presence[];
  readonly startedAfter?: Date;
}

export interface PresentPageQuery extends PresentFilter {
  readonly order: "asc" | "desc";
  /** Last of the page before */
  readonly after?: { readonly timeStarted: Date; readonly id: string };
  readonly limit: number;
}

/** Sandboxes that run or are paused, as of `now`, by when they were last started. */
export async function listPresent(db: Db, query: PresentPageQuery, now: Date): Promise<SandboxRow[]> {
  const { after, order } = query;
  let select = db
    .selectFrom("sandbox")
    .selectAll()
    .where((row) => isPresent(row, query, now));
  if (after !== undefined) {
    const beyond = sql.raw(order === "asc" ? ">" : "<");
    select = select.where(sql<boolean>`(time_started, id) ${beyond} (${after.timeStarted}::timestamptz, ${after.id})`);
  }
  return select.orderBy("time_started", order).orderBy("id", order).limit(query.limit).execute();
}

export async function countPresent(db: Db, filter: PresentFilter, now: Date): Promise<number> {
  const { count } = await db
    .selectFrom("sandbox")
    .select((row) => row.fn.countAll<number>().as("count"))
    .where((row) => isPresent(row, filter, now))
    .executeTakeFirstOrThrow();
  return count;
}

type Row = ExpressionBuilder<Tables, "sandbox">;
type Condition = ExpressionWrapper<Tables, "sandbox", SqlBool>;

function matches(row: Row, filter: SandboxFilter): Condition {
  return row.and([
    row("team_id", "=", filter.teamId),
    row("for_build_id", "is", null),
    ...(filter.template === undefined ? [] : [row("template", "=", filter.template)]),
    ...(filter.metadata === undefined ? [] : [sql<boolean>`metadata @> ${JSON.stringify(filter.metadata)}::jsonb`]),
  ]);
}

/** Says in SQL what `present` in ../sandboxes/present.ts says of a row. */
function isPresent(row: Row, filter: PresentFilter, now: Date): Condition {
  const isRunning = row.and([
    row.or([row("state", "=", "running"), row.and([row("state", "=", "snapshotting"), row("time_paused", "is", null)])]),
    row.or([row("time_expires", "is", null), row("time_expires", ">", now)]),
  ]);
  const isPaused = row.or([
    row("state", "in", ["pausing", "paused", "resuming"]),
    row.and([row("state", "=", "snapshotting"), row("time_paused", "is not", null)]),
    row.and([row("state", "in", ["running", "snapshotting"]), row("time_expires", "<=", now)]),
  ]);
  const presence = filter.presence ?? ["running", "paused"];
  return row.and([
    matches(row, filter),
    row("time_started", "is not", null),
    row("time_delete_requested", "is", null),
    row.not(isExpired(row, now)),
    row.or([...(presence.includes("running") ? [isRunning] : []), ...(presence.includes("paused") ? [isPaused] : [])]),
    ...(filter.startedAfter === undefined ? [] : [row("time_started", ">=", filter.startedAfter)]),
  ]);
}
