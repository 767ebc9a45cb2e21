import type { ChannelKind } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { ChannelTable } from "./schema-channels.ts";

export type ChannelRow = Selectable<ChannelTable>;

/** A channel as lists show it. */
export interface CountedChannelRow extends ChannelRow {
  readonly pending: number;
  readonly failed: number;
}

export interface NewChannelRow {
  readonly id: string;
  readonly teamId: string;
  readonly name: string;
  readonly kind: ChannelKind;
  readonly config: Uint8Array;
  readonly destination: string;
  readonly kinds: readonly string[];
  readonly platformEvents: boolean;
  readonly isEnabled: boolean;
  readonly now: Date;
}

/** Keeps others from adding channels to a team until the transaction ends; answers how many it has. */
export async function lockChannelCount(transaction: Db, teamId: string): Promise<number> {
  await transaction.selectFrom("team").select("id").where("id", "=", teamId).forNoKeyUpdate().execute();
  const { count } = await transaction
    .selectFrom("channel")
    .select((row) => row.fn.countAll<number>().as("count"))
    .where("team_id", "=", teamId)
    .executeTakeFirstOrThrow();
  return count;
}

/** False when the team has one of that name. */
export async function insertChannel(db: Db, channel: NewChannelRow): Promise<boolean> {
  const result = await db
    .insertInto("channel")
    .values({
      id: channel.id,
      team_id: channel.teamId,
      name: channel.name,
      kind: channel.kind,
      config: channel.config,
      destination: channel.destination,
      kinds: JSON.stringify(channel.kinds),
      platform_events: channel.platformEvents,
      is_enabled: channel.isEnabled,
      time_created: channel.now,
      time_updated: channel.now,
    })
    .onConflict((conflict) => conflict.constraint("channel_name_of_team").doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

export async function findChannel(db: Db, teamId: string, id: string): Promise<ChannelRow | undefined> {
  return db.selectFrom("channel").selectAll().where("id", "=", id).where("team_id", "=", teamId).executeTakeFirst();
}

/** By name; `id`: only that one. */
export async function listChannels(db: Db, teamId: string, id?: string): Promise<CountedChannelRow[]> {
  const count = (state: "pending" | "failed") =>
    sql<number>`(SELECT count(*) FROM delivery WHERE delivery.channel_id = channel.id AND delivery.state = ${sql.lit(state)})`;
  let query = db
    .selectFrom("channel")
    .selectAll()
    .select([count("pending").as("pending"), count("failed").as("failed")])
    .where("team_id", "=", teamId);
  if (id !== undefined) query = query.where("id", "=", id);
  return query.orderBy("name").execute();
}

export interface ChannelPatch {
  readonly name?: string;
  readonly config?: Uint8Array;
  readonly destination?: string;
  readonly kinds?: readonly string[];
  readonly isEnabled?: boolean;
  /** What failed so far says nothing of what it is now */
  readonly isFresh?: boolean;
}

/** False when it has been changed, or is gone, since `row` was read. Throws on a name that another one has (`isNameTaken`). */
export async function updateChannel(db: Db, row: ChannelRow, patch: ChannelPatch, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("channel")
    .set((column) => ({
      ...(patch.name === undefined ? {} : { name: patch.name }),
      ...(patch.config === undefined ? {} : { config: patch.config }),
      ...(patch.destination === undefined ? {} : { destination: patch.destination }),
      ...(patch.kinds === undefined ? {} : { kinds: JSON.stringify(patch.kinds) }),
      ...(patch.isEnabled === undefined ? {} : { is_enabled: patch.isEnabled }),
      ...(patch.isFresh === true ? { failures: 0, time_failing: null, time_next: null } : {}),
      time_updated: now,
      generation: column("generation", "+", 1),
    }))
    .where("id", "=", row.id)
    .where("generation", "=", row.generation)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Whether a write failed because the team has a channel of that name. */
export function isNameTaken(error: unknown): boolean {
  const { code, constraint } = error as { readonly code?: unknown; readonly constraint?: unknown };
  return code === "23505" && constraint === "channel_name_of_team";
}

export async function deleteChannel(db: Db, teamId: string, id: string): Promise<ChannelRow | undefined> {
  return db.deleteFrom("channel").where("id", "=", id).where("team_id", "=", teamId).returningAll().executeTakeFirst();
}

/** Notes that a try succeeded, when others before it did not. */
export async function noteSuccess(db: Db, id: string): Promise<void> {
  await db
    .updateTable("channel")
    .set({ failures: 0, time_failing: null, time_next: null })
    .where("id", "=", id)
    .where("failures", ">", 0)
    .execute();
}

/** Notes that a try failed; `restMs` says how long the channel is left alone after so many in a row. */
export async function noteFailure(db: Db, id: string, now: Date, restMs: (failures: number) => number): Promise<void> {
  const row = await db
    .updateTable("channel")
    .set((column) => ({ failures: column("failures", "+", 1), time_failing: sql<Date>`coalesce(time_failing, ${now})` }))
    .where("id", "=", id)
    .returning(["failures"])
    .executeTakeFirst();
  if (row === undefined) return;
  const rest = restMs(row.failures);
  if (rest === 0) return;
  await db
    .updateTable("channel")
    .set({ time_next: new Date(now.getTime() + rest) })
    .where("id", "=", id)
    .where("failures", ">=", row.failures)
    .execute();
}
