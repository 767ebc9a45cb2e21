import type { DrainMode, HostDescription, HostHealth, HostLoad, HostState } from "@roost/contract";
import type { ColumnType, Generated } from "kysely";

export interface HostTables {
  host: HostTable;
  host_registration: HostRegistrationTable;
  certificate_authority: CertificateAuthorityTable;
}

/** Written as JSON text or not at all, read as the value. */
type OptionalJson<Value> = ColumnType<Value | null, string | null | undefined, string | null>;

export interface HostTable {
  id: string;
  /** For people */
  name: string;
  /** As the operator wants it */
  state: HostState;
  /** Counts changes by operators and registrations */
  generation: Generated<number>;
  /** null: all teams' */
  team_id: string | null;
  tags: ColumnType<string[], string | undefined, string>;
  /** `host:port`; null: not registered, or in the control plane's process */
  address: string | null;
  time_created: Date;
  time_last_seen: Date | null;
  /** Until then it counts as reachable; null: never heard of */
  time_lease_ends: Date | null;
  /** Since when everybody has been told that it is unreachable; null: they have not, or it is not */
  time_unreachable: Date | null;
  cpu_count: number | null;
  memory_mib: number | null;
  disk_mib: number | null;
  description: OptionalJson<HostDescription>;
  load: OptionalJson<HostLoad>;
  health: OptionalJson<HostHealth>;
  clock_offset_ms: number | null;
  /** Of the certificate issued last: SHA-256, hex */
  certificate_fingerprint: string | null;
  time_certificate_issued: Date | null;
  time_certificate_expires: Date | null;
  /** When it was first used; null: not yet, so the one before it is good as well */
  time_certificate_used: Date | null;
  previous_fingerprint: string | null;
  drain_mode: DrainMode | null;
  time_drain_started: Date | null;
  time_drained: Date | null;
  drain_problem: string | null;
  drain_claimed_by: string | null;
  time_drain_claim_ends: Date | null;
}

export interface HostRegistrationTable {
  /** SHA-256 of the token's secret */
  token_hash: Uint8Array;
  host_id: string;
  time_created: Date;
  time_expires: Date;
  time_used: Date | null;
  /** SHA-256 of the public key it was used with */
  key_hash: Uint8Array | null;
  certificate_pem: string | null;
}

export interface CertificateAuthorityTable {
  /** 1: there is one */
  id: number;
  certificate_pem: string;
  /** PKCS 8, sealed */
  sealed_key: Uint8Array;
  time_created: Date;
}
