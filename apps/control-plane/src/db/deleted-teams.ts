import type { Db } from "./database.ts";

/** What deleted teams have left. */

export interface DeletedTeam {
  readonly id: string;
  readonly timeDeleted: Date;
}

/** Teams that were deleted and have something left that is to be removed, whoever was deleted first first. */
export async function listTeamsToClear(db: Db, limit: number): Promise<DeletedTeam[]> {
  const rows = await db
    .selectFrom("team")
    .select(["id", "time_deleted"])
    .where("time_deleted", "is not", null)
    .where(({ or, exists, selectFrom }) =>
      or([
        exists(selectFrom("built_template").select("built_template.id").whereRef("built_template.team_id", "=", "team.id")),
        exists(
          selectFrom("snapshot").select("snapshot.id").whereRef("snapshot.team_id", "=", "team.id").where("snapshot.state", "=", "ready"),
        ),
        exists(selectFrom("channel").select("channel.id").whereRef("channel.team_id", "=", "team.id")),
        exists(selectFrom("membership").select("membership.user_id").whereRef("membership.team_id", "=", "team.id")),
        exists(
          selectFrom("sandbox")
            .select("sandbox.id")
            .whereRef("sandbox.team_id", "=", "team.id")
            .where("sandbox.state", "<>", "stopped")
            .where("sandbox.time_delete_requested", "is", null),
        ),
      ]),
    )
    .orderBy("time_deleted")
    .orderBy("id")
    .limit(limit)
    .execute();
  return rows.flatMap(({ id, time_deleted: timeDeleted }) => (timeDeleted === null ? [] : [{ id, timeDeleted }]));
}

/** Sandboxes that nobody has asked to end: one that was being created when its team was deleted. */
export async function listLeftSandboxIds(db: Db, teamId: string): Promise<string[]> {
  const rows = await db
    .selectFrom("sandbox")
    .select("id")
    .where("team_id", "=", teamId)
    .where("state", "<>", "stopped")
    .where("time_delete_requested", "is", null)
    .execute();
  return rows.map(({ id }) => id);
}

/** With what is on its way to them. Answers how many. */
export async function deleteChannelsOf(db: Db, teamId: string): Promise<number> {
  return Number((await db.deleteFrom("channel").where("team_id", "=", teamId).executeTakeFirst()).numDeletedRows);
}

/** Who joined at the moment in which the team was deleted. */
export async function deleteMembershipsOf(db: Db, teamId: string): Promise<void> {
  await db.deleteFrom("membership").where("team_id", "=", teamId).execute();
}
