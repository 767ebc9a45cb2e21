import type {
  BuildLogLevel,
  BuildState,
  EventActor,
  EventKind,
  EventSubjectKind,
  ExpiryAction,
  PortAccess,
  Recipe,
  SandboxState,
  TeamQuota,
} from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

import type { RecordedNetwork } from "../sandboxes/network-secrets.ts";
import type { BuildSource } from "../templates/run/build-source.ts";
import type { AccountTables } from "./schema-accounts.ts";
import type { ChannelTables } from "./schema-channels.ts";
import type { HostTables } from "./schema-hosts.ts";
import type { MoveTables } from "./schema-moves.ts";
import type { UsageTables } from "./schema-usage.ts";
import type { OperationTables } from "./schema-operations.ts";

/** The tables as queries see them; the truth is `migrations/`. */
export interface Tables extends AccountTables, ChannelTables, UsageTables, HostTables, OperationTables, MoveTables {
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
  team: TeamTable;
  snapshot: SnapshotTable;
}

/** Written as JSON text, read as the value. */
export type Json<Value> = ColumnType<Value, string, string>;

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

export interface TeamTable {
  id: string;
  name: string;
  /** The namespace of its public templates */
  slug: string;
  /** As it was written: fields may be missing, `teamQuotaSchema` has their defaults */
  quota: ColumnType<Partial<TeamQuota>, string | undefined, string>;
  time_created: Date;
  /** It is no more */
  time_deleted: Date | null;
  generation: Generated<number>;
}

export interface SandboxTable {
  id: string;
  team_id: string;
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
  network: Json<RecordedNetwork>;
  /** The sandbox's revision on its host since which `network` is in force */
  network_revision: Generated<number>;
  /** What its host must have been given */
  host_tags: ColumnType<string[], string | undefined, string>;
  /** Port → who may reach it; `*` stands for all others. Empty: as the network policy says */
  port_access: ColumnType<Readonly<Record<string, PortAccess>>, string | undefined, string>;
  /** Part of what signs URLs of its ports */
  port_key_number: Generated<number>;
  /** Opens ports that are not public; null: nothing does */
  traffic_token: string | null;
  /** The build that made its template; null: a base template or snapshot */
  template_build_id: string | null;
  /** The snapshot it was made from; null: something else */
  template_snapshot_id: string | null;
  /** The build it works for: nobody else sees it */
  for_build_id: string | null;
}

export interface EventTable {
  id: string;
  /** null: a host's own */
  team_id: string | null;
  number: Generated<number>;
  /** Who told it; null: the control plane */
  host_id: string | null;
  time_created: Date;
  kind: EventKind;
  sandbox_id: string | null;
  template: string | null;
  message: string;
  detail: Json<Record<string, string>>;
  subject_kind: EventSubjectKind;
  subject_id: string;
  actor: Json<EventActor>;
  /** Its place in the stream; null: not published yet */
  position: ColumnType<number | null, number | undefined, number>;
}

export interface ApiKeyTable {
  id: string;
  team_id: string;
  name: string;
  hash: Uint8Array;
  prefix: string;
  time_created: Date;
  time_last_used: Date | null;
  time_revoked: Date | null;
  /** What it may do; null: all that a member of its team may */
  scopes: ColumnType<string[] | null, string | null | undefined, string | null>;
  /** It may administer the platform */
  is_admin: Generated<boolean>;
  time_expires: Date | null;
  /** Id of the user or key that made it; null: the platform */
  created_by: string | null;
}

export interface MigrationTable {
  number: number;
  name: string;
  checksum: string;
  time_applied: Date;
}

export interface BuiltTemplateTable {
  id: string;
  team_id: string;
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
  /** That of its template */
  team_id: string;
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

export interface SnapshotTable {
  id: string;
  team_id: string;
  name: string;
  /** Recorded before its host makes it; abandoned: nobody waits for it any more */
  state: "creating" | "ready" | "abandoned";
  host_id: string;
  /** Its name there */
  host_template: string;
  digest: string;
  has_memory: boolean;
  /** 0: any, likewise memory */
  vcpus: number;
  memory_mib: number;
  disk_size_mib: number;
  size_bytes: number;
  source_sandbox_id: string | null;
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
