import type { NetworkPolicy } from "@roost/contract";

import type { Db } from "./database.ts";
import type { OwnedId } from "./owned-id.ts";
import type { SandboxRow } from "./sandboxes.ts";

/** Records a sandbox's network policy; undefined when there is no such record. */
export async function recordNetwork(db: Db, { id, team_id: teamId }: OwnedId, network: NetworkPolicy): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ network: JSON.stringify(network) })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .returningAll()
    .executeTakeFirst();
}
