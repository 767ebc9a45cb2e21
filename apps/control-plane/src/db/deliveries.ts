import { randomUUID } from "node:crypto";

import type { DeliveryState, EventKind } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { ChannelRow } from "./channels.ts";
import type { Db } from "./database.ts";
import type { EventRow } from "./events.ts";
import type { DeliveryTable } from "./schema-channels.ts";

export type DeliveryRow = Selectable<DeliveryTable>;

/** A delivery that is to be tried now, by whoever has its lease. */
export interface ClaimedDelivery {
  readonly delivery: DeliveryRow & { readonly lease_token: string };
  readonly channel: ChannelRow;
  readonly event: EventRow;
}

/** Whether any delivery's time may have come: a cheap question, to ask often. */
export async function hasDueDeliveries(db: Db, now: Date): Promise<boolean> {
  const { rows } = await sql<{ has: boolean }>`
    SELECT EXISTS (SELECT FROM delivery WHERE state = 'pending' AND time_next <= ${now}) AS has`.execute(db);
  return rows[0]?.has ?? false;
}

export interface DeliveryClaim {
  readonly now: Date;
  readonly leaseEnds: Date;
  /** Deliveries, at most */
  readonly limit: number;
  /** Tries of one channel at once; of one that fails, one */
  readonly perChannel: number;
}

/** Channels that one claim looks at: the others' turn comes with the next */
const channelsPerClaim = 32;

/**
 * Takes on deliveries whose time has come. Of one channel and subject the earliest alone can be taken on: those after it wait until it is delivered or given up.
 * A channel is taken stock of by one claimer at a time (its row is locked meanwhile), so that two control planes together keep to `perChannel`.
 */
export async function claimDeliveries(db: Db, claim: DeliveryClaim): Promise<ClaimedDelivery[]> {
  const { now, leaseEnds, limit, perChannel } = claim;
  return db.transaction().execute(async (transaction) => {
    const isFree = sql`(delivery.time_lease_ends IS NULL OR delivery.time_lease_ends <= ${now})`;
    const room = sql`(CASE WHEN channel.failures > 0 THEN 1 ELSE ${perChannel}::integer END - (
      SELECT count(*) FROM delivery WHERE delivery.channel_id = channel.id AND delivery.lease_token IS NOT NULL AND delivery.time_lease_ends > ${now}))`;
    const { rows: channels } = await sql<ChannelRow>`
      SELECT channel.* FROM channel
       WHERE channel.is_enabled AND (channel.time_next IS NULL OR channel.time_next <= ${now})
         AND EXISTS (SELECT FROM delivery WHERE delivery.channel_id = channel.id AND delivery.state = 'pending' AND delivery.time_next <= ${now} AND ${isFree})
         AND ${room} > 0
       ORDER BY random() LIMIT ${channelsPerClaim}
         FOR NO KEY UPDATE OF channel SKIP LOCKED`.execute(transaction);
    const claimed: ClaimedDelivery[] = [];
    for (const channel of channels) {
      if (claimed.length >= limit) break;
      // A statement of its own: it sees what claimers took until the channel was locked
      const { rows } = await sql<DeliveryRow & { readonly lease_token: string }>`
        UPDATE delivery SET lease_token = ${randomUUID()}::uuid, time_lease_ends = ${leaseEnds}, attempts = attempts + 1
         WHERE id IN (
           SELECT delivery.id FROM delivery
            WHERE delivery.channel_id = ${channel.id} AND delivery.state = 'pending' AND delivery.time_next <= ${now} AND ${isFree}
              AND NOT EXISTS (SELECT FROM delivery AS earlier WHERE earlier.channel_id = delivery.channel_id AND earlier.subject = delivery.subject
                                 AND earlier.state = 'pending' AND earlier.position < delivery.position)
            ORDER BY delivery.position
            LIMIT (SELECT greatest(0, least(${limit - claimed.length}::integer, ${room})) FROM channel WHERE channel.id = ${channel.id})
              FOR UPDATE SKIP LOCKED)
        RETURNING *`.execute(transaction);
      if (rows.length === 0) continue;
      const ids = rows.map((row) => row.event_id);
      const events = new Map(
        (await transaction.selectFrom("event").selectAll().where("id", "in", ids).execute()).map((row) => [row.id, row]),
      );
      for (const delivery of rows) {
        const event = events.get(delivery.event_id);
        if (event !== undefined) claimed.push({ delivery, channel, event });
      }
    }
    return claimed;
  });
}

export interface DeliveryOutcome {
  readonly state: DeliveryState;
  /** Of a pending one: its next try */
  readonly timeNext?: Date;
  readonly error: string | null;
  readonly status: number | null;
}

/** Records how a try ended; false when the lease on it was lost. */
export async function endAttempt(
  db: Db,
  { id, lease_token: token }: ClaimedDelivery["delivery"],
  outcome: DeliveryOutcome,
  now: Date,
): Promise<boolean> {
  const result = await db
    .updateTable("delivery")
    .set({
      state: outcome.state,
      lease_token: null,
      time_lease_ends: null,
      last_error: outcome.error,
      last_status: outcome.status,
      ...(outcome.timeNext === undefined ? {} : { time_next: outcome.timeNext }),
      time_ended: outcome.state === "pending" ? null : now,
    })
    .where("id", "=", id)
    .where("lease_token", "=", token)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Gives a delivery back as if it had not been taken on. */
export async function releaseDelivery(db: Db, { id, lease_token: token }: ClaimedDelivery["delivery"]): Promise<void> {
  await db
    .updateTable("delivery")
    .set({ lease_token: null, time_lease_ends: null })
    .where("id", "=", id)
    .where("lease_token", "=", token)
    .execute();
}

export interface GiveUp {
  readonly now: Date;
  /** A channel that fails since before this is dead */
  readonly deadSince: Date;
  /** Deliveries of one channel that may wait */
  readonly pendingMax: number;
}

/**
 * Gives up deliveries whose time is up: those that were tried, and those of channels that are dead or switched off; and of those above `pendingMax` the oldest. Whatever was
 * never tried because no control plane ran is kept, and gets its try.
 */
export async function giveUpDeliveries(db: Db, { now, deadSince, pendingMax }: GiveUp): Promise<number> {
  const { rows } = await sql<{ count: number }>`
    WITH surplus AS MATERIALIZED (
      SELECT channel.id AS channel_id, (SELECT position FROM delivery WHERE channel_id = channel.id AND state = 'pending'
                                         ORDER BY position DESC OFFSET ${pendingMax} LIMIT 1) AS position
        FROM channel
    ), ended AS (
      UPDATE delivery SET state = 'failed', time_ended = ${now}, lease_token = NULL, time_lease_ends = NULL,
             last_error = CASE WHEN delivery.position <= surplus.position THEN 'too many others were waiting'
                               ELSE coalesce(delivery.last_error, 'the channel took nothing for too long') END
        FROM channel JOIN surplus ON surplus.channel_id = channel.id
       WHERE delivery.channel_id = channel.id AND delivery.state = 'pending'
         AND (delivery.time_lease_ends IS NULL OR delivery.time_lease_ends <= ${now})
         AND (delivery.position <= surplus.position
              OR (delivery.time_expires <= ${now} AND (delivery.attempts > 0 OR NOT channel.is_enabled OR channel.time_failing <= ${deadSince})))
      RETURNING 1
    ) SELECT count(*) AS count FROM ended`.execute(db);
  return rows[0]?.count ?? 0;
}

/** Deletes deliveries that ended before: those that arrived sooner than those that were given up. */
export async function forgetDeliveries(db: Db, deliveredBefore: Date, failedBefore: Date): Promise<number> {
  const result = await db
    .deleteFrom("delivery")
    .where((row) =>
      row.or([
        row.and([row("state", "=", "delivered"), row("time_ended", "<", deliveredBefore)]),
        row.and([row("state", "=", "failed"), row("time_ended", "<", failedBefore)]),
      ]),
    )
    .executeTakeFirst();
  return Number(result.numDeletedRows);
}

export type ListedDelivery = DeliveryRow & { readonly event_kind: EventKind };

export interface DeliveryPageQuery {
  readonly channelId: string;
  readonly state?: DeliveryState;
  readonly id?: string;
  /** Of the last one of the page before */
  readonly before?: number;
  readonly limit: number;
}

/** Newest event first. */
export async function listDeliveries(db: Db, { channelId, state, id, before, limit }: DeliveryPageQuery): Promise<ListedDelivery[]> {
  let query = db
    .selectFrom("delivery")
    .innerJoin("event", "event.id", "delivery.event_id")
    .selectAll("delivery")
    .select("event.kind as event_kind")
    .where("delivery.channel_id", "=", channelId);
  if (state !== undefined) query = query.where("delivery.state", "=", state);
  if (id !== undefined) query = query.where("delivery.id", "=", id);
  if (before !== undefined) query = query.where("delivery.position", "<", before);
  return query.orderBy("delivery.position", "desc").limit(limit).execute();
}

/** Lets one that was given up, or that waits, be tried again at once; false when it was delivered, or is being tried. */
export async function retryDelivery(db: Db, id: string, now: Date, timeExpires: Date): Promise<boolean> {
  const result = await db
    .updateTable("delivery")
    .set({ state: "pending", time_next: now, time_expires: timeExpires, time_ended: null })
    .where("id", "=", id)
    .where("state", "in", ["failed", "pending"])
    .where("lease_token", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}
