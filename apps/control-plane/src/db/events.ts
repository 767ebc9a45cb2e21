import type { EventActor, EventKind, EventSubjectKind } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import { timeOnHost } from "./moves.ts";
import type { EventTable } from "./schema.ts";

export type EventRow = Selectable<EventTable>;

/** An event as its host told it. */
export interface NewEvent {
  readonly id: string;
  readonly hostId: string;
  readonly time: Date;
  readonly kind: EventKind;
  readonly sandboxId: string | null;
  readonly template: string | null;
  readonly message: string;
  readonly detail: Readonly<Record<string, string>>;
}

/** What an event that a host told is about, as its team knows it. */
interface ToldSubject {
  readonly teamId: string | null;
  readonly kind: EventSubjectKind;
  readonly id: string;
  /** As users know it */
  readonly template: string | null;
  readonly time: Date;
}

/**
 * False when it was known already, or is not to be told: it is about a sandbox that works for a build, whose log tells what happens, or about one that was never
 * that host's. Hosts may be a team's own, and whoever is root there must not tell other teams anything in the name of theirs.
 */
export async function insertEvent(db: Db, event: NewEvent): Promise<boolean> {
  const subject = await subjectOf(db, event);
  if (subject === undefined) return false;
  const actor: EventActor = { kind: "host", id: event.hostId, name: event.hostId };
  const result = await db
    .insertInto("event")
    .values({
      id: event.id,
      team_id: subject.teamId,
      host_id: event.hostId,
      time_created: subject.time,
      kind: event.kind,
      sandbox_id: event.sandboxId,
      template: subject.template,
      subject_kind: subject.kind,
      subject_id: subject.id,
      actor: JSON.stringify(actor),
      message: event.message,
      detail: JSON.stringify(event.detail),
    })
    .onConflict((conflict) => conflict.column("id").doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

async function subjectOf(db: Db, { hostId, sandboxId, template, time }: NewEvent): Promise<ToldSubject | undefined> {
  if (sandboxId !== null) {
    const row = await db
      .selectFrom("sandbox")
      .select(["id", "team_id", "host_id", "for_build_id"])
      .where("id", "=", sandboxId)
      .executeTakeFirst();
    if (row === undefined) return { teamId: null, kind: "sandbox", id: sandboxId, template, time };
    const happened = row.for_build_id === null ? await timeOnHost(db, row, { hostId, time }) : undefined;
    return happened && { teamId: row.team_id, kind: "sandbox", id: sandboxId, template, time: happened };
  }
  if (template === null) return { teamId: null, kind: "host", id: hostId, template, time };
  // hosts know templates of teams by names of their own
  const owned =
    (await db
      .selectFrom("snapshot")
      .select(["team_id", "name"])
      .where("host_template", "=", template)
      .where("host_id", "=", hostId)
      .executeTakeFirst()) ??
    (await db
      .selectFrom("build")
      .innerJoin("built_template", "built_template.id", "build.template_id")
      .select(["built_template.team_id", "built_template.name"])
      .where("build.host_template", "=", template)
      .where("build.host_id", "=", hostId)
      .executeTakeFirst());
  const name = owned?.name ?? template;
  return { teamId: owned?.team_id ?? null, kind: "template", id: name, template: name, time };
}

/** Of what a host itself told, what was heard last: it tells in order, so all before it is here, too, or was not to be kept. */
export async function findLastEventId(db: Db, hostId: string): Promise<string | undefined> {
  const row = await db
    .selectFrom("event")
    .select("id")
    .where("host_id", "=", hostId)
    .where(sql<boolean>`actor->>'kind' = 'host'`)
    .orderBy("number", "desc")
    .limit(1)
    .executeTakeFirst();
  return row?.id;
}

/** Whose events somebody sees: a team's, and to admins of the platform also those that are nobody's. */
export interface EventAudience {
  readonly teamId: string;
  readonly isAdmin: boolean;
}

export interface EventFilter {
  readonly audience: EventAudience;
  readonly sandboxId?: string;
  /** Last of the page before */
  readonly after?: { readonly timeCreated: Date; readonly number: number };
  readonly limit: number;
}

/** Newest first; of one instant, the one heard of last first. */
export async function listEvents(db: Db, { audience, sandboxId, after, limit }: EventFilter): Promise<EventRow[]> {
  let query = db
    .selectFrom("event")
    .selectAll()
    .where((row) => row.or([row("team_id", "=", audience.teamId), ...(audience.isAdmin ? [row("team_id", "is", null)] : [])]));
  if (sandboxId !== undefined) query = query.where("sandbox_id", "=", sandboxId);
  if (after !== undefined) {
    query = query.where(sql<boolean>`(time_created, number) < (${after.timeCreated}::timestamptz, ${after.number}::bigint)`);
  }
  return query.orderBy("time_created", "desc").orderBy("number", "desc").limit(limit).execute();
}

/** Team of events that are nobody's, in `event_forgotten` */
const nobody = "";

/** Events that one statement deletes: with many deliveries of each it ends well within its deadline */
const forgottenAtOnce = 2_000;

/**
 * Deletes events from before `before`, and all but the newest `countMax` of each team; answers how many. One that is not published, or still on its
 * way to a channel, stays; up to where each team's are gone is remembered.
 */
export async function forgetEvents(db: Db, before: Date, countMax: number): Promise<number> {
  let total = 0;
  for (;;) {
    const count = await forgetSome(db, before, countMax);
    total += count;
    if (count < forgottenAtOnce) return total;
  }
}

async function forgetSome(db: Db, before: Date, countMax: number): Promise<number> {
  return db.transaction().execute(async (transaction) => {
    const { rows } = await sql<{ team_id: string; position: number; count: number }>`
      WITH surplus AS MATERIALIZED (
        SELECT id AS team_id, (SELECT position FROM event WHERE team_id = team.id AND position IS NOT NULL
                                ORDER BY position DESC OFFSET ${countMax} LIMIT 1) AS position FROM team
        UNION ALL
        SELECT NULL, (SELECT position FROM event WHERE team_id IS NULL AND position IS NOT NULL ORDER BY position DESC OFFSET ${countMax} LIMIT 1)
      ), old AS (
        SELECT event.id FROM event LEFT JOIN surplus ON surplus.team_id IS NOT DISTINCT FROM event.team_id
         WHERE event.position IS NOT NULL AND (event.time_created < ${before} OR event.position <= surplus.position)
           AND NOT EXISTS (SELECT FROM delivery WHERE delivery.event_id = event.id AND delivery.state = 'pending')
         LIMIT ${forgottenAtOnce}
      ), gone AS (
        DELETE FROM event USING old WHERE event.id = old.id RETURNING event.team_id, event.position
      )
      SELECT coalesce(team_id, ${nobody}) AS team_id, max(position) AS position, count(*) AS count FROM gone GROUP BY 1`.execute(
      transaction,
    );
    for (const { team_id, position } of rows) {
      await transaction
        .insertInto("event_forgotten")
        .values({ team_id, position })
        .onConflict((conflict) =>
          conflict.column("team_id").doUpdateSet((row) => ({
            position: sql<number>`greatest(${row.ref("event_forgotten.position")}, ${row.ref("excluded.position")})`,
          })),
        )
        .execute();
    }
    return rows.reduce((sum, { count }) => sum + count, 0);
  });
}

/** Up to where events that somebody could see are gone; 0: none is. */
export async function forgottenUntil(db: Db, { teamId, isAdmin }: EventAudience): Promise<number> {
  const rows = await db
    .selectFrom("event_forgotten")
    .select("position")
    .where("team_id", "in", isAdmin ? [teamId, nobody] : [teamId])
    .execute();
  return Math.max(0, ...rows.map(({ position }) => position));
}
