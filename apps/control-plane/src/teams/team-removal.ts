import { hour, type Logger } from "@roost/kit";

import { deleteBuiltTemplate, listBuiltTemplates } from "../db/built-templates.ts";
import type { Db } from "../db/database.ts";
import { deleteChannelsOf, deleteMembershipsOf, listLeftSandboxIds, listTeamsToClear, type DeletedTeam } from "../db/deleted-teams.ts";
import { requestDeleteOfAnyTeam } from "../db/sandboxes.ts";
import { deleteSnapshot, listSnapshots } from "../db/snapshots.ts";
import { requestCancel } from "../templates/build-store.ts";
import { hostTemplateOf } from "../templates/names.ts";

/** How long in `ms` the channels of a deleted team are kept: that it was deleted is still to be sent to them */
const channelsKeptMs = 1 * hour;
/** Teams in one round */
const batchSize = 50;

export interface TeamRemovalDependencies {
  readonly db: Db;
  readonly log: Logger;
}

/**
 * Removes what deleted teams have left: templates with their builds, snapshots, channels with their secrets, and sandboxes that were being created in
 * that moment. What hosts have of it is noted for removal. Stays: the team's row (nobody gets its name in public templates again), its audit log, events, usage,
 * and records of ended sandboxes, each for as long as anybody's. Takes no input, and each step is a transaction of its own: whatever a crash leaves, the next round finds.
 */
export async function removeLeftOfTeams({ db, log }: TeamRemovalDependencies, now: Date): Promise<void> {
  for (const team of await listTeamsToClear(db, batchSize)) {
    try {
      await removeLeft(db, team, now, log.child({ teamId: team.id }));
    } catch (error) {
      log.warn({ err: error, teamId: team.id }, "could not remove what a deleted team has left, will try again");
    }
  }
}

async function removeLeft(db: Db, { id: teamId, timeDeleted }: DeletedTeam, now: Date, log: Logger): Promise<void> {
  await deleteMembershipsOf(db, teamId);
  for (const id of await listLeftSandboxIds(db, teamId)) {
    await requestDeleteOfAnyTeam(db, id, now);
    log.info({ sandboxId: id }, "a sandbox of a deleted team is to end");
  }
  for (const { id, name } of await listBuiltTemplates(db, teamId)) {
    const obstacle = await deleteBuiltTemplate(db, id, hostTemplateOf, now);
    // Either ends, and a later round finds the template without it
    if (obstacle === undefined) log.info({ templateId: id, name }, "a template of a deleted team was deleted");
    else if ("openBuildIds" in obstacle) {
      for (const buildId of obstacle.openBuildIds) await requestCancel(db, { id: buildId, team_id: teamId }, now);
    }
  }
  for (const { id, name } of await listSnapshots(db, teamId)) {
    const deleted = await deleteSnapshot(db, id, now, async () => undefined);
    if (deleted?.usedBy.length === 0) log.info({ snapshotId: id, name }, "a snapshot of a deleted team was deleted");
  }
  if (now.getTime() - timeDeleted.getTime() < channelsKeptMs) return;
  const count = await deleteChannelsOf(db, teamId);
  if (count > 0) log.info({ count }, "channels of a deleted team were deleted");
}
