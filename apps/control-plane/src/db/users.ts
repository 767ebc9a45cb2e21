import { sql, type Selectable } from "kysely";

import type { PagePosition } from "../page-position.ts";
import type { Db } from "./database.ts";
import type { Provider, UserTable } from "./schema-accounts.ts";

export type UserRow = Selectable<UserTable>;

export interface NewUser {
  readonly id: string;
  readonly email: string;
  readonly isEmailConfirmed: boolean;
  readonly name: string;
  readonly passwordHash: string | null;
  readonly isAdmin: boolean;
}

/** Undefined when an account has the address. */
export async function insertUser(db: Db, user: NewUser, now: Date): Promise<UserRow | undefined> {
  return db
    .insertInto("user_account")
    .values({
      id: user.id,
      email: user.email,
      time_email_confirmed: user.isEmailConfirmed ? now : null,
      name: user.name,
      password_hash: user.passwordHash,
      is_admin: user.isAdmin,
      time_created: now,
      time_deactivated: null,
      time_deleted: null,
    })
    .onConflict((conflict) => conflict.column("email").doNothing())
    .returningAll()
    .executeTakeFirst();
}

/** Whether this user is the first one ever. Others who ask at the same time wait until this transaction ends. */
export async function claimFirst(db: Db, userId: string, now: Date): Promise<boolean> {
  const result = await db
    .insertInto("first_user")
    .values({ user_id: userId, time_created: now })
    .onConflict((conflict) => conflict.column("only_row").doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

export async function hasFirstUser(db: Db): Promise<boolean> {
  return (await db.selectFrom("first_user").select("user_id").executeTakeFirst()) !== undefined;
}

/** Not one that was deleted. */
export async function findUser(db: Db, id: string): Promise<UserRow | undefined> {
  return db.selectFrom("user_account").selectAll().where("id", "=", id).where("time_deleted", "is", null).executeTakeFirst();
}

export async function findUserByEmail(db: Db, email: string): Promise<UserRow | undefined> {
  return db.selectFrom("user_account").selectAll().where("email", "=", email).where("time_deleted", "is", null).executeTakeFirst();
}

export async function findUserByIdentity(db: Db, provider: Provider, subject: string): Promise<UserRow | undefined> {
  return db
    .selectFrom("user_identity")
    .innerJoin("user_account", "user_account.id", "user_identity.user_id")
    .selectAll("user_account")
    .where("user_identity.provider", "=", provider)
    .where("user_identity.subject", "=", subject)
    .where("user_account.time_deleted", "is", null)
    .executeTakeFirst();
}

export async function listProviders(db: Db, userId: string): Promise<Provider[]> {
  const rows = await db.selectFrom("user_identity").select("provider").where("user_id", "=", userId).orderBy("provider").execute();
  return rows.map((row) => row.provider);
}

/** False when the provider's account is somebody's, or the user has one there. */
export async function insertIdentity(
  db: Db,
  identity: { readonly provider: Provider; readonly subject: string; readonly userId: string },
  now: Date,
): Promise<boolean> {
  const result = await db
    .insertInto("user_identity")
    .values({ provider: identity.provider, subject: identity.subject, user_id: identity.userId, time_created: now })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

/** False when there was none. */
export async function deleteIdentity(db: Db, userId: string, provider: Provider): Promise<boolean> {
  const result = await db.deleteFrom("user_identity").where("user_id", "=", userId).where("provider", "=", provider).executeTakeFirst();
  return result.numDeletedRows > 0n;
}

export async function renameUser(db: Db, id: string, name: string): Promise<void> {
  await db.updateTable("user_account").set({ name }).where("id", "=", id).execute();
}

/** `isConfirmed`: it was set by who reads the account's mail. */
export async function setPasswordHash(db: Db, id: string, hash: string, isConfirmed: boolean, now: Date): Promise<void> {
  await db
    .updateTable("user_account")
    .set({ password_hash: hash, ...(isConfirmed ? { time_email_confirmed: sql<Date>`coalesce(time_email_confirmed, ${now})` } : {}) })
    .where("id", "=", id)
    .execute();
}

export async function confirmEmail(db: Db, id: string, now: Date): Promise<void> {
  await db
    .updateTable("user_account")
    .set({ time_email_confirmed: now })
    .where("id", "=", id)
    .where("time_email_confirmed", "is", null)
    .execute();
}

/** The user, whom no other transaction changes until this one ends. */
export async function lockUser(db: Db, id: string): Promise<UserRow | undefined> {
  return db.selectFrom("user_account").selectAll().where("id", "=", id).where("time_deleted", "is", null).forUpdate().executeTakeFirst();
}

/**
 * Ids of the admins that can sign in, none of which another transaction changes until this one ends. One statement could not both look and write:
 * of two admins who take away each other's right at the same moment, each would still see the other.
 */
export async function lockAdmins(db: Db): Promise<string[]> {
  const rows = await db
    .selectFrom("user_account")
    .select("id")
    .where("is_admin", "=", true)
    .where("time_deactivated", "is", null)
    .orderBy("id")
    .forUpdate()
    .execute();
  return rows.map((row) => row.id);
}

export async function setAdmin(db: Db, id: string, isAdmin: boolean): Promise<void> {
  await db.updateTable("user_account").set({ is_admin: isAdmin }).where("id", "=", id).execute();
}

export async function setDeactivated(db: Db, id: string, time: Date | null): Promise<void> {
  await db.updateTable("user_account").set({ time_deactivated: time }).where("id", "=", id).where("time_deleted", "is", null).execute();
}

/** Leaves the id, which the audit log names, and nothing of the person. */
export async function anonymizeUser(db: Db, id: string, now: Date): Promise<void> {
  await db.deleteFrom("user_identity").where("user_id", "=", id).execute();
  await db.deleteFrom("account_token").where("user_id", "=", id).execute();
  await db
    .updateTable("user_account")
    .set({
      email: `${id}@deleted`,
      name: "deleted user",
      password_hash: null,
      is_admin: false,
      time_email_confirmed: null,
      time_deactivated: now,
      time_deleted: now,
    })
    .where("id", "=", id)
    .execute();
}

export type AdminUserRow = UserRow & { readonly team_count: number; readonly time_last_used: Date | null };

function adminUsers(db: Db) {
  return db
    .selectFrom("user_account")
    .selectAll("user_account")
    .select([
      sql<number>`(SELECT count(*)::int FROM membership WHERE membership.user_id = user_account.id)`.as("team_count"),
      sql<Date | null>`(SELECT max(time_last_used) FROM session WHERE session.user_id = user_account.id)`.as("time_last_used"),
    ])
    .where("user_account.time_deleted", "is", null);
}

export async function findAdminUser(db: Db, id: string): Promise<AdminUserRow | undefined> {
  return adminUsers(db).where("user_account.id", "=", id).executeTakeFirst();
}

/** Newest first, from after `after`. */
export async function listAdminUsers(db: Db, limit: number, after: PagePosition | undefined): Promise<AdminUserRow[]> {
  let query = adminUsers(db).orderBy("user_account.time_created", "desc").orderBy("user_account.id", "desc").limit(limit);
  if (after !== undefined) query = query.where(sql<boolean>`(user_account.time_created, user_account.id) < (${after.time}, ${after.key})`);
  return query.execute();
}
