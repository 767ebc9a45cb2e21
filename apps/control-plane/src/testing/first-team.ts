import { defaultTeamId } from "@roost/contract";

import { systemCaller } from "../accounts/caller.ts";
import { ownedBy, type OwnedId } from "../db/owned-id.ts";

/** The team that tests act for where it does not matter which. */
export const firstTeam = defaultTeamId;

/** What that team has of an id. */
export function own(id: string): OwnedId {
  return ownedBy(firstTeam, id);
}

/** Somebody who acts for it. */
export const firstCaller = systemCaller(firstTeam);
