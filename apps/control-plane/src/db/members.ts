import type { TeamRole } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { PagePosition } from "../page-position.ts";
import type { Db } from "./database.ts";
import type { InvitationTable, MembershipTable } from "./schema-accounts.ts";
import type { TeamRow } from "./teams.ts";

export type MembershipRow = Selectable<MembershipTable>;
export type InvitationRow = Selectable<InvitationTable>;
export type MemberRow = MembershipRow & { readonly name: string; readonly email: string };

/** Changes of who is in a team are made by whoever has locked it (`lockTeam`). */

/** False when the user is in the team already. */
export async function insertMembership(db: Db, teamId: string, userId: string, role: TeamRole, now: Date): Promise<boolean> {
  const result = await db
    .insertInto("membership")
    .values({ team_id: teamId, user_id: userId, role, time_created: now })
    .onConflict((conflict) => conflict.doNothing())
    .executeTakeFirst();
  return (result.numInsertedOrUpdatedRows ?? 0n) > 0n;
}

export async function findMembership(db: Db, teamId: string, userId: string): Promise<MembershipRow | undefined> {
  return db.selectFrom("membership").selectAll().where("team_id", "=", teamId).where("user_id", "=", userId).executeTakeFirst();
}

function members(db: Db, teamId: string) {
  return db
    .selectFrom("membership")
    .innerJoin("user_account", "user_account.id", "membership.user_id")
    .selectAll("membership")
    .select(["user_account.name", "user_account.email"])
    .where("membership.team_id", "=", teamId);
}

/** In the order in which they joined. */
export async function listMembers(db: Db, teamId: string): Promise<MemberRow[]> {
  return members(db, teamId).orderBy("membership.time_created").orderBy("membership.user_id").execute();
}

export async function findMember(db: Db, teamId: string, userId: string): Promise<MemberRow | undefined> {
  return members(db, teamId).where("membership.user_id", "=", userId).executeTakeFirst();
}

export async function isMemberWithEmail(db: Db, teamId: string, email: string): Promise<boolean> {
  return (await members(db, teamId).where("user_account.email", "=", email).executeTakeFirst()) !== undefined;
}

export async function setRole(db: Db, teamId: string, userId: string, role: TeamRole): Promise<void> {
  await db.updateTable("membership").set({ role }).where("team_id", "=", teamId).where("user_id", "=", userId).execute();
}

export async function deleteMembership(db: Db, teamId: string, userId: string): Promise<void> {
  await db.deleteFrom("membership").where("team_id", "=", teamId).where("user_id", "=", userId).execute();
}

export async function countOwners(db: Db, teamId: string): Promise<number> {
  const row = await db
    .selectFrom("membership")
    .select(sql<number>`count(*)::int`.as("count"))
    .where("team_id", "=", teamId)
    .where("role", "=", "owner")
    .executeTakeFirstOrThrow();
  return row.count;
}

export type TeamOfUser = TeamRow & { readonly role: TeamRole };

/** By name. */
export async function listTeamsOf(db: Db, userId: string): Promise<TeamOfUser[]> {
  return db
    .selectFrom("membership")
    .innerJoin("team", "team.id", "membership.team_id")
    .selectAll("team")
    .select("membership.role")
    .where("membership.user_id", "=", userId)
    .where("team.time_deleted", "is", null)
    .orderBy("team.name")
    .orderBy("team.id")
    .execute();
}

export async function renameTeam(db: Db, teamId: string, name: string): Promise<TeamRow | undefined> {
  return db
    .updateTable("team")
    .set({ name, generation: sql`generation + 1` })
    .where("id", "=", teamId)
    .where("time_deleted", "is", null)
    .returningAll()
    .executeTakeFirst();
}

/** Of one that its transaction has locked: nobody is in it any more, and nobody is asked to be. */
export async function markTeamDeleted(db: Db, teamId: string, now: Date): Promise<void> {
  await db.deleteFrom("membership").where("team_id", "=", teamId).execute();
  await db.deleteFrom("invitation").where("team_id", "=", teamId).execute();
  await db.updateTable("session").set({ team_id: null }).where("team_id", "=", teamId).execute();
  await db.updateTable("api_key").set({ time_revoked: now }).where("team_id", "=", teamId).where("time_revoked", "is", null).execute();
  await db
    .updateTable("team")
    .set({ time_deleted: now, generation: sql`generation + 1` })
    .where("id", "=", teamId)
    .execute();
}

/** Sandboxes of users that have not ended. */
export async function countLiveSandboxes(db: Db, teamId: string): Promise<number> {
  const row = await db
    .selectFrom("sandbox")
    .select(sql<number>`count(*)::int`.as("count"))
    .where("team_id", "=", teamId)
    .where("state", "<>", "stopped")
    .executeTakeFirstOrThrow();
  return row.count;
}

/** Replaces an earlier one of the same address. */
export async function insertInvitation(db: Db, row: InvitationRow): Promise<void> {
  await db.deleteFrom("invitation").where("team_id", "=", row.team_id).where("email", "=", row.email).execute();
  await db.insertInto("invitation").values(row).execute();
}

/** Those that can still be accepted, newest first. */
export async function listInvitations(db: Db, teamId: string, now: Date): Promise<InvitationRow[]> {
  return db
    .selectFrom("invitation")
    .selectAll()
    .where("team_id", "=", teamId)
    .where("time_expires", ">", now)
    .orderBy("time_created", "desc")
    .orderBy("id")
    .execute();
}

export async function deleteInvitation(db: Db, teamId: string, id: string): Promise<InvitationRow | undefined> {
  return db.deleteFrom("invitation").where("team_id", "=", teamId).where("id", "=", id).returningAll().executeTakeFirst();
}

/** Takes back what these users and keys have open; answers the ids of the invitations. */
export async function deleteInvitationsBy(db: Db, teamId: string, inviters: readonly string[]): Promise<string[]> {
  const rows = await db
    .deleteFrom("invitation")
    .where("team_id", "=", teamId)
    .where("invited_by_id", "in", inviters)
    .returning("id")
    .execute();
  return rows.map(({ id }) => id);
}

/** Id of the team that an invitation is for, whether it can still be used or not. */
export async function findInvitedTo(db: Db, hash: Uint8Array): Promise<string | undefined> {
  return (await db.selectFrom("invitation").select("team_id").where("token_hash", "=", hash).executeTakeFirst())?.team_id;
}

/** Uses it up, if it is to this address, has not expired, and its team is there. */
export async function takeInvitation(db: Db, hash: Uint8Array, email: string, now: Date): Promise<InvitationRow | undefined> {
  return db
    .deleteFrom("invitation")
    .where("token_hash", "=", hash)
    .where("email", "=", email)
    .where("time_expires", ">", now)
    .where("team_id", "in", (row) => row.selectFrom("team").select("id").where("time_deleted", "is", null))
    .returningAll()
    .executeTakeFirst();
}

export type AdminTeamRow = TeamRow & { readonly member_count: number; readonly sandbox_count: number; readonly owners: string[] };

function adminTeams(db: Db) {
  return db
    .selectFrom("team")
    .selectAll("team")
    .select([
      sql<number>`(SELECT count(*)::int FROM membership WHERE membership.team_id = team.id)`.as("member_count"),
      sql<number>`(SELECT count(*)::int FROM sandbox WHERE sandbox.team_id = team.id AND state <> 'stopped')`.as("sandbox_count"),
      sql<string[]>`(SELECT coalesce(jsonb_agg(email ORDER BY email), '[]') FROM membership JOIN user_account ON user_account.id = user_id
        WHERE membership.team_id = team.id AND role = 'owner')`.as("owners"),
    ])
    .where("team.time_deleted", "is", null);
}

export async function findAdminTeam(db: Db, id: string): Promise<AdminTeamRow | undefined> {
  return adminTeams(db).where("team.id", "=", id).executeTakeFirst();
}

/** Newest first, from after `after`. */
export async function listAdminTeams(db: Db, limit: number, after: PagePosition | undefined): Promise<AdminTeamRow[]> {
  let query = adminTeams(db).orderBy("team.time_created", "desc").orderBy("team.id", "desc").limit(limit);
  if (after !== undefined) query = query.where(sql<boolean>`(team.time_created, team.id) < (${after.time}, ${after.key})`);
  return query.execute();
}

export async function setQuota(db: Db, teamId: string, quota: string): Promise<boolean> {
  const result = await db
    .updateTable("team")
    .set({ quota, generation: sql`generation + 1` })
    .where("id", "=", teamId)
    .where("time_deleted", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}
