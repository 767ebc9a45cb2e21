import { defaultTeamId } from "@roost/contract";

import type { Caller } from "../accounts/caller.ts";
import { systemCaller } from "../accounts/caller.ts";
import type { HostRow } from "../db/hosts.ts";

/** A host that asks for something for itself. */
export function hostCaller(row: Pick<HostRow, "id" | "name" | "team_id">, requestId: string, address: string | null): Caller {
  return {
    ...systemCaller(row.team_id ?? defaultTeamId, requestId),
    actor: { kind: "host", id: row.id, name: row.name },
    scopes: new Set(),
    isAdmin: false,
    address,
  };
}
