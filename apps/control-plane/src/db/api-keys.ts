import type { TeamRole } from "@roost/contract";
import type { Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { ApiKeyTable } from "./schema.ts";

export type ApiKeyRow = Selectable<ApiKeyTable>;

export type NewApiKeyRow = Omit<ApiKeyRow, "time_last_used" | "time_revoked">;

export async function insertApiKey(db: Db, key: NewApiKeyRow): Promise<void> {
  await db
    .insertInto("api_key")
    .values({ ...key, scopes: key.scopes === null ? null : JSON.stringify(key.scopes), time_last_used: null, time_revoked: null })
    .execute();
}

/** The key with this hash, of a team that there still is; also one that is revoked or has expired. */
export async function findApiKey(db: Db, hash: Uint8Array): Promise<ApiKeyRow | undefined> {
  return db
    .selectFrom("api_key")
    .innerJoin("team", "team.id", "api_key.team_id")
    .selectAll("api_key")
    .where("api_key.hash", "=", hash)
    .where("team.time_deleted", "is", null)
    .executeTakeFirst();
}

/** Those that are not revoked, oldest first. */
export async function listApiKeys(db: Db, teamId: string): Promise<ApiKeyRow[]> {
  return db
    .selectFrom("api_key")
    .selectAll()
    .where("team_id", "=", teamId)
    .where("time_revoked", "is", null)
    .orderBy("time_created")
    .orderBy("id")
    .execute();
}

/** Whether there is the team. Before any other lock, as whoever changes a team takes them; it is not changed until the transaction has ended. */
export async function holdTeam(transaction: Db, teamId: string): Promise<boolean> {
  const row = await transaction
    .selectFrom("team")
    .select("id")
    .where("id", "=", teamId)
    .where("time_deleted", "is", null)
    .forShare()
    .executeTakeFirst();
  return row !== undefined;
}

/** A key that makes another: of those that are not revoked. It cannot be revoked until the transaction has ended, and what it made is seen then. */
export async function holdMakingKey(transaction: Db, teamId: string, id: string): Promise<ApiKeyRow | undefined> {
  return transaction
    .selectFrom("api_key")
    .selectAll()
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("time_revoked", "is", null)
    .forShare()
    .executeTakeFirst();
}

/** What a user who makes a key may in the team; undefined: they are not active, or not in it. Likewise, neither can change until the transaction has ended. */
export async function holdMakingUser(
  transaction: Db,
  teamId: string,
  id: string,
): Promise<{ readonly role: TeamRole; readonly is_admin: boolean } | undefined> {
  return transaction
    .selectFrom("membership")
    .innerJoin("user_account", "user_account.id", "membership.user_id")
    .select(["membership.role", "user_account.is_admin"])
    .where("membership.team_id", "=", teamId)
    .where("membership.user_id", "=", id)
    .where("user_account.time_deactivated", "is", null)
    .forShare()
    .executeTakeFirst();
}

/** Notes that it was used at `now`, unless a use since `since` is noted already: by another control plane, say. */
export async function touchApiKey(db: Db, id: string, now: Date, since: Date): Promise<void> {
  await db
    .updateTable("api_key")
    .set({ time_last_used: now })
    .where("id", "=", id)
    .where((row) => row.or([row("time_last_used", "is", null), row("time_last_used", "<", since)]))
    .execute();
}

/** False when the team has no such key, or not any more. */
export async function revokeApiKey(db: Db, teamId: string, id: string, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("api_key")
    .set({ time_revoked: now })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("time_revoked", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Those that `maker` made, in one team or in all of them, and those that these made in their turn; without revoked ones. */
export async function listApiKeysMadeBy(db: Db, maker: string, teamId: string | undefined): Promise<ApiKeyRow[]> {
  return db
    .withRecursive("made", (query) => {
      const first = query.selectFrom("api_key").select("api_key.id").where("created_by", "=", maker);
      return (teamId === undefined ? first : first.where("team_id", "=", teamId)).union(
        query.selectFrom("api_key").innerJoin("made", "made.id", "api_key.created_by").select("api_key.id"),
      );
    })
    .selectFrom("api_key")
    .innerJoin("made", "made.id", "api_key.id")
    .selectAll("api_key")
    .where("time_revoked", "is", null)
    .execute();
}

/** Waits for whoever makes a key with one of them. */
export async function revokeApiKeys(db: Db, ids: readonly string[], now: Date): Promise<void> {
  await db.updateTable("api_key").set({ time_revoked: now }).where("id", "in", ids).where("time_revoked", "is", null).execute();
}
