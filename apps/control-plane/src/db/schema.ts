import type { BuildLogLevel, BuildState, EventKind, ExpiryAction, NetworkPolicy, Recipe, SandboxState } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

import type { BuildSource } from "../templates/run/build-source.ts";

/** The tables as queries see them; the truth is `migrations/`. */
export interface Tables {
  host: HostTable;
  template: TemplateTable;
  sandbox: SandboxTable;
  event: EventTable;
  api_key: ApiKeyTable;
  migration: MigrationTable;
  built_template: BuiltTemplateTable;
  build: BuildTable;
  template_tag: TemplateTagTable;
  build_log: BuildLogTable;
  template_removal: TemplateRemovalTable;
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
  kind: "base" | "snapshot" | "image" | "step" | "build";
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
  /** The build that made its template; null: a base template or snapshot */
  template_build_id: string | null;
  /** The build it works for: nobody else sees it */
  for_build_id: string | null;
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

export interface BuiltTemplateTable {
  id: string;
  name: string;
  is_public: boolean;
  time_created: Date;
  time_updated: Date;
}

/** What a build failed of. */
export interface BuildFailure {
  message: string;
  /** What of the recipe it is about, as `buildStepSchema` says; null: nothing of it */
  step: string | null;
}

export interface BuildTable {
  id: string;
  template_id: string;
  state: BuildState;
  generation: Generated<number>;
  /** Set when it is ready */
  tags: Json<string[]>;
  /** null: not said yet */
  recipe: ColumnType<Recipe | null, string | null, string | null>;
  vcpus: number;
  memory_mib: number;
  step_count: Generated<number>;
  steps_done: Generated<number>;
  /** How many of those that are done came from the cache */
  steps_cached: Generated<number>;
  host_id: string | null;
  /** Its template on the host */
  host_template: string | null;
  size_bytes: number | null;
  /** Of all that its template follows from; null: it cannot be taken over */
  result_key: string | null;
  /** What its images became on its host, by source as JSON */
  sources: ColumnType<Record<string, BuildSource>, string | undefined, string>;
  failure: ColumnType<BuildFailure | null, string | null, string | null>;
  claimed_by: string | null;
  time_claim_ends: Date | null;
  time_cancel_requested: Date | null;
  log_count: Generated<number>;
  time_created: Date;
  time_started: Date | null;
  time_ended: Date | null;
}

export interface TemplateTagTable {
  template_id: string;
  tag: string;
  build_id: string;
  time_created: Date;
}

export interface TemplateRemovalTable {
  /** On hosts */
  name: string;
  time_created: Date;
}

export interface BuildLogTable {
  build_id: string;
  /** From 0, without gaps */
  number: number;
  time_created: Date;
  level: BuildLogLevel;
  step: string | null;
  message: string;
}
