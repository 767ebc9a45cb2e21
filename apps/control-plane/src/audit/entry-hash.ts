import { createHash } from "node:crypto";

import type { AuditEntryRow } from "../db/audit.ts";

/** What stands in place of a hash before the first entry */
export const noHash = "0".repeat(64);

/** Bytes of an entry that are hashed have one form only: an array in this order, `detail` sorted by its keys. A change of it is a new version. */
const formatVersion = 1;

/** SHA-256, hex, of an entry with the hash of the one before it. */
export function hashOfEntry(entry: Omit<AuditEntryRow, "hash">): string {
  const fields = [
    formatVersion,
    entry.chain,
    entry.number,
    entry.time_created.toISOString(),
    entry.actor_kind,
    entry.actor_id,
    entry.actor_name,
    entry.action,
    entry.resource_kind,
    entry.resource_id,
    entry.scope,
    entry.status,
    entry.request_id,
    entry.address,
    Object.entries(entry.detail).sort(([one], [other]) => (one < other ? -1 : 1)),
    entry.previous_hash,
  ];
  return createHash("sha256").update(JSON.stringify(fields), "utf8").digest("hex");
}
