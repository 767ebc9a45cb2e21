import { sql } from "kysely";

import type { Db } from "./database.ts";
import type { RecordedNetwork } from "../sandboxes/network-secrets.ts";
import type { SandboxRow } from "./sandboxes.ts";

/** Records a sandbox's network policy, which is in force on its host; undefined when there is no such record, or the sandbox is another host's by now. */
export async function recordNetwork(
  db: Db,
  { id, team_id: teamId, host_id: hostId }: Pick<SandboxRow, "id" | "team_id" | "host_id">,
  network: RecordedNetwork,
): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ network: JSON.stringify(network) })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("host_id", "=", hostId)
    .returningAll()
    .executeTakeFirst();
}

/** Policies with a password that is not sealed: written before that was done. */
export async function findUnsealedNetworks(db: Db): Promise<Pick<SandboxRow, "id" | "network">[]> {
  return db
    .selectFrom("sandbox")
    .select(["id", "network"])
    .where(sql<boolean>`network->'egress_proxy'->>'password' IS NOT NULL`)
    .execute();
}

/** Replaces a policy by itself in another form, unless another one is recorded by now. */
export async function rewriteNetwork(db: Db, { id, network }: Pick<SandboxRow, "id" | "network">, next: RecordedNetwork): Promise<void> {
  await db
    .updateTable("sandbox")
    .set({ network: JSON.stringify(next) })
    .where("id", "=", id)
    .where(sql<boolean>`network = ${JSON.stringify(network)}::jsonb`)
    .execute();
}
