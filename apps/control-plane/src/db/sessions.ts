import type { TeamRole } from "@roost/contract";
import type { Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { SessionTable } from "./schema-accounts.ts";
import type { UserRow } from "./users.ts";

export type SessionRow = Selectable<SessionTable>;

export async function insertSession(db: Db, session: SessionRow): Promise<void> {
  await db.insertInto("session").values(session).execute();
}

/** A session that goes on, whose it is, and what they are in their teams. */
export interface SessionIdentity {
  readonly session: SessionRow;
  readonly user: UserRow;
  readonly roles: ReadonlyMap<string, TeamRole>;
}

/** Undefined when there is none with this hash, it is over, or its user may not sign in any more. */
export async function findSession(db: Db, hash: Uint8Array, now: Date): Promise<SessionIdentity | undefined> {
  const session = await db
    .selectFrom("session")
    .selectAll()
    .where("token_hash", "=", hash)
    .where("time_expires", ">", now)
    .executeTakeFirst();
  if (session === undefined) return undefined;
  const user = await db
    .selectFrom("user_account")
    .selectAll()
    .where("id", "=", session.user_id)
    .where("time_deactivated", "is", null)
    .executeTakeFirst();
  if (user === undefined) return undefined;
  const roles = await db
    .selectFrom("membership")
    .innerJoin("team", "team.id", "membership.team_id")
    .select(["membership.team_id", "membership.role"])
    .where("membership.user_id", "=", user.id)
    .where("team.time_deleted", "is", null)
    .execute();
  return { session, user, roles: new Map(roles.map((row) => [row.team_id, row.role])) };
}

/** Notes that it was used, and that it goes on until `timeExpires`. */
export async function touchSession(db: Db, id: string, now: Date, timeExpires: Date): Promise<void> {
  await db
    .updateTable("session")
    .set({ time_last_used: now, time_expires: timeExpires })
    .where("id", "=", id)
    .where("time_last_used", "<", now)
    .execute();
}

export async function setSessionTeam(db: Db, id: string, teamId: string): Promise<void> {
  await db.updateTable("session").set({ team_id: teamId }).where("id", "=", id).execute();
}

/** Whether it goes on. */
export async function hasSession(db: Db, userId: string, id: string, now: Date): Promise<boolean> {
  const row = await db
    .selectFrom("session")
    .select("id")
    .where("id", "=", id)
    .where("user_id", "=", userId)
    .where("time_expires", ">", now)
    .executeTakeFirst();
  return row !== undefined;
}

/** Newest first. */
export async function listSessions(db: Db, userId: string, now: Date): Promise<SessionRow[]> {
  return db
    .selectFrom("session")
    .selectAll()
    .where("user_id", "=", userId)
    .where("time_expires", ">", now)
    .orderBy("time_created", "desc")
    .orderBy("id")
    .execute();
}

/** False when the user has no such session. */
export async function deleteSession(db: Db, userId: string, id: string): Promise<boolean> {
  const result = await db.deleteFrom("session").where("id", "=", id).where("user_id", "=", userId).executeTakeFirst();
  return result.numDeletedRows > 0n;
}

/** All of a user's, except one perhaps; answers how many. */
export async function deleteSessionsOf(db: Db, userId: string, exceptId?: string): Promise<number> {
  let query = db.deleteFrom("session").where("user_id", "=", userId);
  if (exceptId !== undefined) query = query.where("id", "<>", exceptId);
  return Number((await query.executeTakeFirst()).numDeletedRows);
}

/** Ends the oldest of a user's until `kept` are left. */
export async function deleteOldestSessions(db: Db, userId: string, kept: number): Promise<void> {
  await db
    .deleteFrom("session")
    .where("id", "in", (row) =>
      row.selectFrom("session").select("id").where("user_id", "=", userId).orderBy("time_last_used", "desc").offset(kept),
    )
    .execute();
}
