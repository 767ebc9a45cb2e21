import type { Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { ApiKeyTable } from "./schema.ts";

export type ApiKeyRow = Selectable<ApiKeyTable>;

export async function insertApiKey(db: Db, key: Omit<ApiKeyRow, "time_last_used" | "time_revoked">): Promise<void> {
  await db
    .insertInto("api_key")
    .values({ ...key, time_last_used: null, time_revoked: null })
    .execute();
}

/** The key with this hash, unless it is revoked. */
export async function findApiKey(db: Db, hash: Uint8Array): Promise<ApiKeyRow | undefined> {
  return db.selectFrom("api_key").selectAll().where("hash", "=", hash).where("time_revoked", "is", null).executeTakeFirst();
}

export async function listApiKeys(db: Db): Promise<ApiKeyRow[]> {
  return db.selectFrom("api_key").selectAll().where("time_revoked", "is", null).orderBy("time_created").execute();
}

export async function touchApiKey(db: Db, id: string, now: Date): Promise<void> {
  await db.updateTable("api_key").set({ time_last_used: now }).where("id", "=", id).execute();
}

export async function revokeApiKey(db: Db, id: string, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("api_key")
    .set({ time_revoked: now })
    .where("id", "=", id)
    .where("time_revoked", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}
