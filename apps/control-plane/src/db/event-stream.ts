import { sql } from "kysely";

import type { Db } from "./database.ts";
import type { EventAudience, EventRow } from "./events.ts";

/**
 * Events in their one order. An event is published when it gets its position, in a transaction of its own that holds the lock of `event_stream`. So positions
 * are given, and become visible, in their order, whatever the order is in which the transactions that told of events began and ended; an event that
 * follows from another one was told after that was committed, and comes after it.
 */

/** Events that one transaction publishes: with 50 channels each it still takes well under a second */
export const publishedAtOnceMax = 200;

export interface StreamState {
  /** Of the newest published event */
  readonly position: number;
  /** Whether there are events to publish */
  readonly isWaiting: boolean;
}

export async function lookAtStream(db: Db): Promise<StreamState> {
  const { rows } = await sql<{ position: number; is_waiting: boolean }>`
    SELECT position, EXISTS (SELECT FROM event WHERE event.position IS NULL) AS is_waiting FROM event_stream`.execute(db);
  const [row] = rows;
  return { position: row?.position ?? 0, isWaiting: row?.is_waiting ?? false };
}

export interface Publication {
  readonly now: Date;
  /** Until when a delivery may be tried */
  readonly timeExpires: Date;
}

/**
 * Whether a channel's team has an admin of the platform, or a key of one. A channel that was made by an admin outlives their being one: asked when an event is
 * published, so that nothing has to be remembered of it when somebody ceases to be one.
 */
const isOfAdmins = (now: Date) => sql`(
  EXISTS (SELECT FROM membership JOIN user_account ON user_account.id = membership.user_id
           WHERE membership.team_id = channel.team_id AND user_account.is_admin
             AND user_account.time_deactivated IS NULL AND user_account.time_deleted IS NULL)
  OR EXISTS (SELECT FROM api_key
              WHERE api_key.team_id = channel.team_id AND api_key.is_admin AND (api_key.scopes IS NULL OR jsonb_exists(api_key.scopes, 'admin'))
                AND api_key.time_revoked IS NULL AND (api_key.time_expires IS NULL OR api_key.time_expires > ${now}::timestamptz)))`;

/** Gives the oldest events that have none their positions, and channels their deliveries; answers how many events. */
export async function publishEvents(db: Db, { now, timeExpires }: Publication): Promise<number> {
  return db.transaction().execute(async (transaction) => {
    const { position: base } = await transaction.selectFrom("event_stream").select("position").forUpdate().executeTakeFirstOrThrow();
    // A statement of its own, after the lock: it sees all that publishers before this one did
    const { rows } = await sql<{ count: number }>`
      WITH next AS (
        SELECT number, row_number() OVER (ORDER BY number) AS place FROM event WHERE position IS NULL ORDER BY number LIMIT ${publishedAtOnceMax}
      ), published AS (
        UPDATE event SET
          position = ${base}::bigint + next.place,
          -- its host may have told of a sandbox before there was a record
          team_id = coalesce(event.team_id, (SELECT sandbox.team_id FROM sandbox WHERE sandbox.id = event.sandbox_id AND sandbox.host_id = event.host_id))
        FROM next WHERE event.number = next.number RETURNING 1
      ) SELECT count(*) AS count FROM published`.execute(transaction);
    const count = rows[0]?.count ?? 0;
    if (count === 0) return 0;
    await sql`
      INSERT INTO delivery (id, channel_id, event_id, position, subject, state, time_next, time_created, time_expires)
      SELECT gen_random_uuid(), channel.id, event.id, event.position, event.subject_kind || ':' || event.subject_id, 'pending',
             ${now}::timestamptz, ${now}::timestamptz, ${timeExpires}::timestamptz
        FROM event JOIN channel ON channel.is_enabled
         AND (channel.team_id = event.team_id OR (event.team_id IS NULL AND channel.platform_events AND ${isOfAdmins(now)}))
         AND (channel.kinds = '[]' OR jsonb_exists(channel.kinds, event.kind) OR jsonb_exists(channel.kinds, split_part(event.kind, '.', 1) || '.*'))
       WHERE event.position > ${base}::bigint AND event.position <= ${base}::bigint + ${count}::bigint
         FOR KEY SHARE OF channel`.execute(transaction);
    await transaction
      .updateTable("event_stream")
      .set({ position: base + count })
      .execute();
    return count;
  });
}

/** Published events of all teams after a position, in order. */
export async function readStream(db: Db, after: number, limit: number): Promise<EventRow[]> {
  return db.selectFrom("event").selectAll().where("position", ">", after).orderBy("position").limit(limit).execute();
}

/** Of those that somebody may see. */
export async function readStreamFor(db: Db, audience: EventAudience, after: number, limit: number): Promise<EventRow[]> {
  return db
    .selectFrom("event")
    .selectAll()
    .where("position", ">", after)
    .where((row) => row.or([row("team_id", "=", audience.teamId), ...(audience.isAdmin ? [row("team_id", "is", null)] : [])]))
    .orderBy("position")
    .limit(limit)
    .execute();
}
