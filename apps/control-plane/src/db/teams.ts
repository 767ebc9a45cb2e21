import { teamQuotaSchema, type TeamQuota } from "@roost/contract";
import type { Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { TeamTable } from "./schema.ts";

/** Records of teams. One that was deleted is not found. */

export type TeamRow = Selectable<TeamTable>;

export async function findTeam(db: Db, id: string): Promise<TeamRow | undefined> {
  return db.selectFrom("team").selectAll().where("id", "=", id).where("time_deleted", "is", null).executeTakeFirst();
}

export async function findTeamBySlug(db: Db, slug: string): Promise<TeamRow | undefined> {
  return db.selectFrom("team").selectAll().where("slug", "=", slug).where("time_deleted", "is", null).executeTakeFirst();
}

/** Whether a namespace means a team's own: it is that team's, or no team's. Code that was written for another installation names its team there, and is to run as it is. */
export async function isOwnNamespace(db: Db, teamId: string, namespace: string): Promise<boolean> {
  const team = await findTeamBySlug(db, namespace.toLowerCase());
  return team === undefined || team.id === teamId;
}

export interface NewTeam {
  readonly id: string;
  readonly name: string;
  readonly slug: string;
  readonly timeCreated: Date;
}

/** Undefined when another team has the slug. */
export async function insertTeam(db: Db, team: NewTeam): Promise<TeamRow | undefined> {
  return db
    .insertInto("team")
    .values({ id: team.id, name: team.name, slug: team.slug, time_created: team.timeCreated, time_deleted: null })
    .onConflict((conflict) => conflict.column("slug").doNothing())
    .returningAll()
    .executeTakeFirst();
}

/**
 * Lets no other transaction count or name what the team has until this one ends; those that only refer to the team go on. Undefined when there is
 * no such team.
 */
export async function lockTeam(db: Db, id: string): Promise<TeamRow | undefined> {
  return db.selectFrom("team").selectAll().where("id", "=", id).where("time_deleted", "is", null).forNoKeyUpdate().executeTakeFirst();
}

/** What a team may have or do at once. */
export function quotaOf(row: Pick<TeamRow, "quota">): TeamQuota {
  return teamQuotaSchema.parse(row.quota);
}
