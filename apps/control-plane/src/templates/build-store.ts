import { buildLogLineBytesMax, buildLogLinesMax, type BuildLogLevel, type BuildState } from "@roost/contract";
import { sql, type ExpressionBuilder, type Selectable, type Updateable } from "kysely";

import type { Db } from "../db/database.ts";
import { removeFromHosts } from "../db/built-templates.ts";
import type { OwnedId } from "../db/owned-id.ts";
import type { BuildFailure, BuildTable, Tables } from "../db/schema.ts";
import { tellOfBuild } from "./build-events.ts";
import { hostTemplateOf } from "./names.ts";

/**
 * What is written of a build while it is worked at. Whoever works at one holds a claim on it, a lease: each write is guarded by it and by the row's generation, so whoever has lost it
 * learns that (undefined) and stops. A wish to cancel changes neither: it is a time that is set, which the claim's holder sees when it looks.
 */

export type BuildRow = Selectable<BuildTable>;

export interface Claim {
  /** Of this process: nobody else has it, also no later process of this installation */
  readonly claimedBy: string;
  readonly now: Date;
  readonly claimEnds: Date;
  /** Nobody else can write to this database: a claim of somebody else is one of a process that has ended */
  readonly isExclusive?: boolean;
}

/** Takes on the oldest build that waits for its turn, or that nobody works at any more; undefined when there is none. */
export async function claimBuild(db: Db, { claimedBy, now, claimEnds, isExclusive = false }: Claim): Promise<BuildRow | undefined> {
  const claimEnded = (row: ExpressionBuilder<Tables, "build">) => [
    row("time_claim_ends", "<=", now),
    ...(isExclusive ? [row("claimed_by", "<>", claimedBy)] : []),
  ];
  const next = db
    .selectFrom("build")
    .select("id")
    .where((row) =>
      row.or([
        // one that is reserved for whoever has the credentials of its image is claimed as if it were worked at already
        row.and([
          row("state", "=", "waiting"),
          row("recipe", "is not", null),
          row.or([row("claimed_by", "is", null), row("claimed_by", "=", claimedBy), ...claimEnded(row)]),
        ]),
        row.and([row("state", "=", "building"), row.or(claimEnded(row))]),
      ]),
    )
    .orderBy("time_created")
    .orderBy("id")
    .limit(1)
    .forUpdate()
    .skipLocked();
  return db.transaction().execute(async (transaction) => {
    const claimed = await transaction
      .updateTable("build")
      .set((row) => ({
        state: "building",
        claimed_by: claimedBy,
        time_claim_ends: claimEnds,
        generation: row("generation", "+", 1),
        time_started: sql<Date>`coalesce(time_started, ${now})`,
      }))
      .where("id", "=", next)
      .returningAll()
      .executeTakeFirst();
    // not when it is taken over from somebody
    if (claimed?.time_started?.getTime() === now.getTime()) await tellOfBuild(transaction, claimed, "build.started", now);
    return claimed;
  });
}

/** Extends the claim. Answers the row as it is now, undefined when somebody else has the build or it has ended. */
export async function renewClaim(db: Db, { id, claimed_by: claimedBy }: BuildRow, claimEnds: Date): Promise<BuildRow | undefined> {
  return db
    .updateTable("build")
    .set({ time_claim_ends: claimEnds })
    .where("id", "=", id)
    .where("state", "=", "building")
    .where("claimed_by", "=", claimedBy)
    .returningAll()
    .executeTakeFirst();
}

/** What changes while a build goes on. */
export type BuildPatch = Pick<Updateable<BuildTable>, "step_count" | "steps_done" | "steps_cached" | "host_id" | "sources">;

/** Answers the new row; undefined when the claim on it is lost. */
export async function updateBuild(db: Db, row: BuildRow, patch: BuildPatch): Promise<BuildRow | undefined> {
  return db
    .updateTable("build")
    .set((columns) => ({ ...patch, generation: columns("generation", "+", 1) }))
    .where("id", "=", row.id)
    .where("state", "=", "building")
    .where("claimed_by", "=", row.claimed_by)
    .where("generation", "=", row.generation)
    .returningAll()
    .executeTakeFirst();
}

export type BuildEnd =
  | { readonly state: "ready"; readonly hostTemplate: string; readonly sizeBytes: number; readonly resultKey: string }
  | { readonly state: "failed"; readonly failure: BuildFailure }
  | { readonly state: "cancelled" };

/**
 * Ends a build. A ready one gets its tags in the same transaction, except those that a later build of the template has. Answers the new row; undefined when the claim is lost,
 * and of a ready one also when it is to be cancelled: then it ends as cancelled instead.
 */
export async function finishBuild(db: Db, row: BuildRow, end: BuildEnd, now: Date): Promise<BuildRow | undefined> {
  return db.transaction().execute(async (transaction) => {
    let update = transaction
      .updateTable("build")
      .set((columns) => ({
        state: end.state,
        time_ended: now,
        claimed_by: null,
        time_claim_ends: null,
        generation: columns("generation", "+", 1),
        ...(end.state === "ready" ? { host_template: end.hostTemplate, size_bytes: end.sizeBytes, result_key: end.resultKey } : {}),
        ...(end.state === "failed" ? { failure: JSON.stringify({ ...end.failure, message: storable(end.failure.message) }) } : {}),
      }))
      .where("id", "=", row.id)
      .where("state", "=", "building")
      .where("claimed_by", "=", row.claimed_by)
      .where("generation", "=", row.generation);
    if (end.state === "ready") update = update.where("time_cancel_requested", "is", null);
    const ended = await update.returningAll().executeTakeFirst();
    if (ended === undefined) return undefined;
    if (ended.state === "ready") await setTags(transaction, ended, now);
    else await removeFromHosts(transaction, [hostTemplateOf(ended.id)], now); // it may have been made before the end was known
    await tellOfBuild(transaction, ended, `build.${end.state}`, now);
    return ended;
  });
}

async function setTags(db: Db, build: BuildRow, now: Date): Promise<void> {
  await db.updateTable("built_template").set({ time_updated: now }).where("id", "=", build.template_id).execute();
  if (build.tags.length === 0) return;
  await db
    .insertInto("template_tag")
    .values(build.tags.map((tag) => ({ template_id: build.template_id, tag, build_id: build.id, time_created: now })))
    .onConflict((conflict) =>
      conflict
        .columns(["template_id", "tag"])
        .doUpdateSet({ build_id: build.id, time_created: now })
        .where(({ exists, not, selectFrom }) =>
          not(
            exists(
              selectFrom("build as holder")
                .select("holder.id")
                .whereRef("holder.id", "=", "template_tag.build_id")
                .where(sql<boolean>`(holder.time_created, holder.id) > (${build.time_created}::timestamptz, ${build.id}::uuid)`),
            ),
          ),
        ),
    )
    .execute();
}

/** Ends a build that nobody works at yet, or asks who does to. Answers the row as it is then; one that has ended stays what it is. */
export async function requestCancel(db: Db, { id, team_id: teamId }: OwnedId, now: Date): Promise<BuildRow | undefined> {
  return db.transaction().execute(async (transaction) => {
    const row = await setCancelled(transaction, { id, team_id: teamId }, now);
    if (row?.state === "cancelled" && row.time_ended?.getTime() === now.getTime())
      await tellOfBuild(transaction, row, "build.cancelled", now);
    return row;
  });
}

async function setCancelled(db: Db, { id, team_id: teamId }: OwnedId, now: Date): Promise<BuildRow | undefined> {
  return db
    .updateTable("build")
    .set({
      state: sql<BuildState>`CASE WHEN state = 'waiting' THEN 'cancelled' ELSE state END`,
      generation: sql<number>`CASE WHEN state = 'waiting' THEN generation + 1 ELSE generation END`,
      time_ended: sql<Date>`CASE WHEN state = 'waiting' THEN ${now}::timestamptz ELSE time_ended END`,
      time_cancel_requested: sql<Date>`CASE WHEN state IN ('waiting', 'building') THEN coalesce(time_cancel_requested, ${now}::timestamptz) ELSE time_cancel_requested END`,
    })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .returningAll()
    .executeTakeFirst();
}

/** A team's build; undefined when it has none of that id. */
export async function findBuild(db: Db, { id, team_id: teamId }: OwnedId): Promise<BuildRow | undefined> {
  return db.selectFrom("build").selectAll().where("id", "=", id).where("team_id", "=", teamId).executeTakeFirst();
}

/** Builds that have not ended, oldest first. */
export async function listOpenBuilds(db: Db): Promise<BuildRow[]> {
  return db.selectFrom("build").selectAll().where("state", "in", ["waiting", "building"]).orderBy("time_created").orderBy("id").execute();
}

/** A line of a build's log before it has its number. */
export interface BuildLogLine {
  readonly time: Date;
  readonly level: BuildLogLevel;
  /** As `buildStepSchema` says; null: of nothing in particular */
  readonly step: string | null;
  readonly message: string;
}

/** The last line of a log that is full. */
const logIsFull = `the log ends here: it has ${buildLogLinesMax} lines`;
/** Rows of one INSERT: each is six parameters, of which PostgreSQL takes 65,535 */
const rowsPerInsert = 1_000;

/** Adds lines, numbered without gaps. What is above the limits of a log is cut, which the log says. Nothing is added to what is gone. */
export async function appendBuildLog(db: Db, buildId: string, lines: readonly BuildLogLine[]): Promise<void> {
  if (lines.length === 0) return;
  await db.transaction().execute(async (transaction) => {
    const build = await transaction.selectFrom("build").select("log_count").where("id", "=", buildId).forUpdate().executeTakeFirst();
    if (build === undefined) return;
    const room = buildLogLinesMax - build.log_count;
    if (room <= 0) return;
    const kept = lines.slice(0, room).map((line) => ({ ...line, message: cut(line.message) }));
    if (lines.length >= room) kept[room - 1] = { time: kept[room - 1]?.time ?? new Date(), level: "warn", step: null, message: logIsFull };
    const rows = kept.map(({ time, level, step, message }, index) => ({
      build_id: buildId,
      number: build.log_count + index,
      time_created: time,
      level,
      step,
      message,
    }));
    for (let start = 0; start < rows.length; start += rowsPerInsert) {
      await transaction
        .insertInto("build_log")
        .values(rows.slice(start, start + rowsPerInsert))
        .execute();
    }
    await transaction
      .updateTable("build")
      .set({ log_count: build.log_count + rows.length })
      .where("id", "=", buildId)
      .execute();
  });
}

/** U+0000 is legal in what programs write, halves of surrogate pairs in strings of JavaScript; neither in what PostgreSQL stores. */
function storable(text: string): string {
  return Buffer.from(text.replaceAll("\0", "\u{FFFD}")).toString();
}

/** At most so many bytes of UTF-8, and no half of a character. */
function cut(message: string): string {
  const text = storable(message);
  const bytes = Buffer.from(text);
  if (bytes.length <= buildLogLineBytesMax) return text;
  const mark = " …";
  let end = buildLogLineBytesMax - Buffer.byteLength(mark);
  while (((bytes[end] ?? 0) & 0xc0) === 0x80) end -= 1; // in the midst of a character
  return bytes.subarray(0, end).toString() + mark;
}
