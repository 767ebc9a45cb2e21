import type { Sandbox } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";

/** A record as users see it. */
export function viewSandbox(row: SandboxRow): Sandbox {
  return {
    id: row.id,
    state: row.state,
    template: row.template,
    vcpus: row.vcpus,
    memory_mb: row.memory_mib,
    disk_mb: row.disk_size_mib,
    timeout_sec: row.timeout_sec,
    metadata: row.metadata,
    created_at: row.time_created.toISOString(),
    started_at: row.time_started?.toISOString() ?? null,
    last_active_at: row.time_last_active.toISOString(),
    stopped_at: row.time_stopped?.toISOString() ?? null,
    stop_reason: row.stop_reason,
    failure_reason: row.failure_reason,
    vm_exit: row.vm_exit,
    versions: row.versions,
  };
}
