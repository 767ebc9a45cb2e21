import type { AuditAction, AuditScope } from "@roost/contract";
import type { ColumnType } from "kysely";

import type { Json } from "./schema.ts";

/** What was done, by whom; and what sandboxes used. */
export interface UsageTables {
  audit_entry: AuditEntryTable;
  audit_head: AuditHeadTable;
  sandbox_interval: SandboxIntervalTable;
  sandbox_metric: SandboxMetricTable;
  sandbox_metric_mark: SandboxMetricMarkTable;
}

export interface AuditEntryTable {
  /** Id of the team, or `platform` */
  chain: string;
  number: number;
  time_created: Date;
  actor_kind: "api_key" | "user" | "host" | "system";
  actor_id: string;
  actor_name: string;
  action: AuditAction;
  resource_kind: string;
  resource_id: string | null;
  scope: AuditScope;
  status: "success" | "failure";
  request_id: string;
  address: string | null;
  detail: Json<Record<string, string>>;
  previous_hash: string;
  hash: string;
}

export interface AuditHeadTable {
  chain: string;
  /** Of the newest entry; 0: there is none */
  number: number;
  hash: string;
  /** Number of the oldest entry that is kept */
  kept_from: ColumnType<number, number | undefined, number>;
  removed_hash: ColumnType<string, string | undefined, string>;
}

/** Written by a trigger of `sandbox`, but for `splitInterval`. */
export interface SandboxIntervalTable {
  sandbox_id: string;
  time_started: Date;
  /** null: it goes on */
  time_ended: Date | null;
  team_id: string;
  state: "running" | "paused";
  template: string;
  vcpus: number;
  memory_mib: number;
  disk_size_mib: number;
  is_build: boolean;
}

export interface SandboxMetricTable {
  sandbox_id: string;
  step_sec: 10 | 60 | 600;
  time_started: Date;
  cpu_percent: number;
  memory_bytes: number;
  cache_bytes: number;
  disk_bytes: number;
}

export interface SandboxMetricMarkTable {
  sandbox_id: string;
  time_stored: Date;
  memory_total_bytes: number;
  disk_total_bytes: number;
  time_claim_ends: Date;
}
