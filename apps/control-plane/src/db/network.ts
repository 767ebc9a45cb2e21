import { sql, type RawBuilder } from "kysely";

import type { Db } from "./database.ts";
import type { RecordedNetwork } from "../sandboxes/network-secrets.ts";
import type { SandboxRow } from "./sandboxes.ts";

/**
 * Records what a sandbox's guest may reach, in force on its host since `revision`; what is said of its ports stays. Undefined when there is no such record, the sandbox is another
 * host's by now, or what was asked later is recorded already.
 */
export async function recordNetwork(
  db: Db,
  { id, team_id: teamId, host_id: hostId }: Pick<SandboxRow, "id" | "team_id" | "host_id">,
  network: RecordedNetwork,
  revision: number,
): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ network: withPortsOfNow(network), network_revision: revision })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("host_id", "=", hostId)
    .where("network_revision", "<", revision)
    .returningAll()
    .executeTakeFirst();
}

/** The two of its fields that are about ports, and are changed by others, as they are recorded at this moment. */
function withPortsOfNow(network: RecordedNetwork): RawBuilder<string> {
  return sql<string>`${JSON.stringify(network)}::jsonb || jsonb_build_object(
    'is_public', coalesce(network->'is_public', 'false'::jsonb),
    'mask_request_host', coalesce(network->'mask_request_host', 'null'::jsonb))`;
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
