/** Tables of migration 0013. */
export interface MoveTables {
  sandbox_move: SandboxMoveTable;
  sandbox_left: SandboxLeftTable;
  host_reservation: HostReservationView;
}

export interface SandboxMoveTable {
  sandbox_id: string;
  /** By which both hosts know it; a new try has another one */
  move_id: string;
  from_host_id: string;
  to_host_id: string;
  /** `copying`: its record names the old host · `moved`: the new one, for good · `undone`: the old one, for good */
  step: "copying" | "moved" | "undone";
  /** It ran before, so it runs again afterwards */
  resumes: boolean;
  /** When its time was up as it ran; null: never, or it did not run */
  time_expires: Date | null;
  expiry_sec: number;
  claimed_by: string | null;
  time_claim_ends: Date | null;
  /** Why it was undone, for operators */
  problem: string | null;
  /** It is not worked at before */
  time_next: Date;
  time_started: Date;
}

/** Whose sandboxes were before they were moved. */
export interface SandboxLeftTable {
  sandbox_id: string;
  host_id: string;
  /** The last time */
  time_left: Date;
}

/** What hosts are to have room for. */
export interface HostReservationView {
  host_id: string;
  kind: "running" | "paused";
  vcpus: number;
  memory_mib: number;
  disk_mib: number;
}
