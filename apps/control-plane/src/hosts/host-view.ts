import type { Host } from "@roost/contract";

import type { HostRow } from "../db/hosts.ts";
import { isReachable } from "./host-standing.ts";

/** A host as operators see it. */
export function viewHost(row: HostRow, now: Date): Host {
  return {
    id: row.id,
    name: row.name,
    state: row.state,
    is_reachable: row.state !== "pending" && isReachable({ timeLeaseEnds: row.time_lease_ends }, now),
    address: row.address,
    team_id: row.team_id,
    tags: row.tags,
    description: row.description,
    load: row.load,
    health: row.health,
    clock_offset_ms: row.clock_offset_ms,
    certificate:
      row.certificate_fingerprint === null || row.time_certificate_expires === null
        ? null
        : { fingerprint: row.certificate_fingerprint, time_expires: row.time_certificate_expires.toISOString() },
    drain:
      row.drain_mode === null || row.time_drain_started === null
        ? null
        : {
            mode: row.drain_mode,
            time_started: row.time_drain_started.toISOString(),
            time_done: row.time_drained?.toISOString() ?? null,
            problem: row.drain_problem,
          },
    time_created: row.time_created.toISOString(),
    time_last_seen: row.time_last_seen?.toISOString() ?? null,
  };
}
