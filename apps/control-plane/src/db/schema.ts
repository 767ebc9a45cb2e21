import type { EventKind, ExpiryAction, NetworkPolicy, SandboxState } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

/** The tables as queries see them; the truth is `migrations/`. */
export interface Tables {
  host: HostTable;
  template: TemplateTable;
  sandbox: SandboxTable;
  event: EventTable;
  api_key: ApiKeyTable;
  migration: MigrationTable;
}

/** Written as JSON text, read as the value. */
type Json<Value> = ColumnType<Value, string, string>;

export interface HostTable {
  id: string;
  info: Json<HostInfo>;
  time_created: Date;
  time_last_seen: Date;
}

/** What a host says of itself. */
export interface HostInfo {
  agent_version: string;
  vmm: string;
  vmm_version: string;
  accelerator: string;
  accelerator_reason: string;
  kernel_version: string;
  cpu_count: number;
  memory_mb: number;
  memory_free_mb: number;
  disk_free_bytes: number;
  sandbox_count: number;
  sandbox_count_max: number;
}

export interface TemplateTable {
  host_id: string;
  name: string;
  kind: "base" | "snapshot";
  digest: string;
  disk_size_mib: number;
  has_memory: boolean;
  /** 0: any, likewise memory */
  vcpus: number;
  memory_mib: number;
}

export interface VmExit {
  exit_code: number | null;
  signal: string | null;
  console_tail: string[];
}

export interface SandboxTable {
  id: string;
  host_id: string;
  template: string;
  vcpus: number;
  memory_mib: number;
  disk_size_mib: number;
  timeout_sec: number;
  metadata: Json<Record<string, string>>;
  access_token: string;
  state: SandboxState;
  generation: number;
  failure_reason: string | null;
  stop_reason: string | null;
  vm_exit: ColumnType<VmExit | null, string | null, string | null>;
  versions: Json<Record<string, string>>;
  time_created: Date;
  time_started: Date | null;
  time_last_active: Date;
  time_stopped: Date | null;
  time_state_updated: Date;
  time_delete_requested: Date | null;
  time_lost: Date | null;
  auto_resume: boolean;
  checkpoint_interval_sec: number;
  start_path: string | null;
  current_generation: number | null;
  has_memory: boolean;
  time_paused: Date | null;
  notice: string | null;
  /** Seconds from a start to `time_expires`, as last asked; 0: none */
  expiry_sec: number;
  /** When its time is up; null: never, or it does not run */
  time_expires: Date | null;
  expiry_action: ExpiryAction;
  /** Whether a pause at that time keeps memory */
  expiry_memory: boolean;
  /** Whether callers of the guest agent need the access token */
  is_secure: boolean;
  /** As it was written: fields may be missing, `networkPolicySchema` has their defaults */
  network: Json<Partial<NetworkPolicy>>;
  /** Opens ports that are not public; null: nothing does */
  traffic_token: string | null;
}

export interface EventTable {
  id: string;
  number: Generated<number>;
  host_id: string;
  time_created: Date;
  kind: EventKind;
  sandbox_id: string | null;
  template: string | null;
  message: string;
  detail: Json<Record<string, string>>;
}

export interface ApiKeyTable {
  id: string;
  name: string;
  hash: Uint8Array;
  prefix: string;
  time_created: Date;
  time_last_used: Date | null;
  time_revoked: Date | null;
}

export interface MigrationTable {
  number: number;
  name: string;
  checksum: string;
  time_applied: Date;
}
