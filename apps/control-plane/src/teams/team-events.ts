import type { EventKind } from "@roost/contract";

import type { Caller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import { emit } from "../events/outbox.ts";

/** Tells of a change of a team or its members, in the transaction that makes it. Of members only their ids: what they are called is for those who may ask. */
export async function tellOfTeam(
  transaction: Db,
  kind: EventKind & `team.${string}`,
  teamId: string,
  { actor }: Caller,
  message: string,
  detail: Readonly<Record<string, string>> = {},
): Promise<void> {
  await emit(transaction, { kind, teamId, subject: { kind: "team", id: teamId }, actor, message, detail });
}
