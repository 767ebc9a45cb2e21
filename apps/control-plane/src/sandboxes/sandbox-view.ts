import type { Generation, Sandbox, SeenHostState } from "@roost/contract";
import type { Generation as WireGeneration } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { SandboxRow } from "../db/sandboxes.ts";

/** A record as users see it. */
export function viewSandbox(row: SandboxRow, hostState: SeenHostState): Sandbox {
  return {
    id: row.id,
    state: row.state,
    host_state: row.state === "stopped" ? null : hostState,
    template: row.template,
    vcpus: row.vcpus,
    memory_mb: row.memory_mib,
    disk_mb: row.disk_size_mib,
    timeout_sec: row.timeout_sec,
    checkpoint_interval_sec: row.checkpoint_interval_sec,
    auto_resume: row.auto_resume,
    metadata: row.metadata,
    created_at: row.time_created.toISOString(),
    started_at: row.time_started?.toISOString() ?? null,
    last_active_at: row.time_last_active.toISOString(),
    stopped_at: row.time_stopped?.toISOString() ?? null,
    stop_reason: row.stop_reason,
    start_path: row.start_path,
    current_generation: row.current_generation,
    has_memory: row.has_memory,
    paused_at: row.time_paused?.toISOString() ?? null,
    expires_at: row.time_expires?.toISOString() ?? null,
    expiry_action: row.expiry_action,
    notice: row.notice,
    failure_reason: row.failure_reason,
    vm_exit: row.vm_exit,
    versions: row.versions,
  };
}

/** A generation as users see it. */
export function viewGeneration(generation: WireGeneration): Generation {
  return {
    number: generation.number,
    kind: generation.kind,
    created_at: new Date(Number(generation.timeCreatedMs)).toISOString(),
    has_memory: generation.hasMemory,
    size_bytes: Number(generation.sizeBytes),
    is_current: generation.isCurrent,
  };
}
