import type { ErrorCode, OperationKind, OperationState } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

/** Tables of migration 0009. */
export interface OperationTables {
  operation: OperationTable;
  reservation: ReservationTable;
  stray: StrayTable;
}

/** Written as JSON text, read as the value. */
type Json<Value> = ColumnType<Value, string, string>;
type JsonOrNull<Value> = ColumnType<Value | null, string | null, string | null>;

/** An answer as it was given. */
export interface KeptAnswer {
  status: number;
  body: unknown;
}

export interface OperationFailure {
  code: ErrorCode;
  message: string;
}

export interface OperationTable {
  id: string;
  team_id: string;
  kind: OperationKind;
  /** Of the native API; null: the platform's own, or asked through another API */
  endpoint: string | null;
  /** null: none, or whoever repeats it now is to begin anew */
  idempotency_key: string | null;
  /** SHA-256 of what was asked */
  request_hash: Uint8Array | null;
  subject_kind: string;
  subject_id: string;
  /** Ids of the sandboxes that it makes, or of the build or snapshot */
  made: Json<string[]>;
  state: OperationState;
  /** What was last done of it */
  step: string;
  result: JsonOrNull<KeptAnswer>;
  failure: JsonOrNull<OperationFailure>;
  claimed_by: string | null;
  time_claim_ends: Date | null;
  /** Counts its changes of hands */
  generation: Generated<number>;
  time_created: Date;
  time_ended: Date | null;
}

/** What a sandbox takes; kept by triggers on `sandbox`. */
export interface ReservationTable {
  sandbox_id: string;
  host_id: string;
  /** Whose quota it counts against; null: nobody's */
  team_id: string | null;
  vcpus: number;
  memory_mib: number;
  disk_mib: number;
  /** `running`: all of that; `paused`: its disk only */
  kind: "running" | "paused";
  /** The operation that is about to start it */
  held_by: string | null;
  time_created: Date;
}

/** A sandbox on a host that nothing explains. */
export interface StrayTable {
  host_id: string;
  sandbox_id: string;
  time_first_seen: Date;
}
