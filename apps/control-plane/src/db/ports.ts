import type { Updateable } from "kysely";

import type { Db } from "./database.ts";
import type { OwnedId } from "./owned-id.ts";
import type { SandboxRow } from "./sandboxes.ts";
import type { SandboxTable } from "./schema.ts";

/** What of a record says who reaches its ports, and how. */
export type PortColumns = Pick<Updateable<SandboxTable>, "network" | "port_access" | "port_key_number" | "traffic_token">;

/** Changes who may reach a sandbox's ports, by what is recorded at this moment; undefined when there is no such record. `change` may throw: nothing is changed then. */
export async function changePorts(
  db: Db,
  { id, team_id: teamId }: OwnedId,
  change: (row: SandboxRow) => PortColumns,
): Promise<SandboxRow | undefined> {
  return db.transaction().execute(async (transaction) => {
    const row = await transaction
      .selectFrom("sandbox")
      .selectAll()
      .where("id", "=", id)
      .where("team_id", "=", teamId)
      .where("for_build_id", "is", null)
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) return undefined;
    return transaction.updateTable("sandbox").set(change(row)).where("id", "=", id).returningAll().executeTakeFirst();
  });
}
