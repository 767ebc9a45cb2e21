import type { ExpiryAction, PortAccess, SandboxState } from "@roost/contract";
import { must } from "@roost/kit";
import { sql, type Insertable, type RawBuilder, type Selectable } from "kysely";

import type { RecordedNetwork } from "../sandboxes/network-secrets.ts";
import type { Db } from "./database.ts";
import type { OwnedId } from "./owned-id.ts";
import type { SandboxTable, VmExit } from "./schema.ts";

export type SandboxRow = Selectable<SandboxTable>;

/** A sandbox as its host described it. */
export interface ObservedSandbox {
  readonly id: string;
  readonly hostId: string;
  readonly template: string;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskSizeMib: number;
  readonly timeoutSec: number;
  readonly accessToken: string;
  readonly state: SandboxState;
  readonly generation: number;
  readonly failureReason: string | null;
  readonly stopReason: string | null;
  readonly vmExit: VmExit | null;
  readonly versions: Readonly<Record<string, string>>;
  readonly timeCreated: Date;
  readonly timeStarted: Date | null;
  readonly timeLastActive: Date;
  readonly checkpointIntervalSec: number;
  readonly startPath: string | null;
  readonly currentGeneration: number | null;
  readonly hasMemory: boolean;
  readonly timePaused: Date | null;
  readonly notice: string | null;
  /** The move that holds it still; absent: none does */
  readonly transit?: { readonly moveId: string; readonly arriving: boolean };
}

export interface NewSandbox extends Pick<
  ObservedSandbox,
  | "id"
  | "hostId"
  | "template"
  | "vcpus"
  | "memoryMib"
  | "diskSizeMib"
  | "timeoutSec"
  | "checkpointIntervalSec"
  | "accessToken"
  | "timeCreated"
> {
  readonly teamId: string;
  readonly metadata: Readonly<Record<string, string>>;
  readonly autoResume: boolean;
  /** `s` from each start until its time is up; 0: never */
  readonly expirySec: number;
  readonly expiryAction: ExpiryAction;
  readonly expiryMemory: boolean;
  readonly isSecure: boolean;
  readonly network: RecordedNetwork;
  /** Port → who may reach it; default: as the network policy says */
  readonly portAccess?: Readonly<Record<string, PortAccess>> | undefined;
  readonly trafficToken: string | null;
  /** What its host must have been given, also where it is moved to; default: nothing */
  readonly hostTags?: readonly string[];
  /** The build that made its template; null: a base template or snapshot */
  readonly templateBuildId: string | null;
  /** The snapshot it is made from; null: something else */
  readonly templateSnapshotId: string | null;
  /** The build it works for; null: it is a user's */
  readonly forBuildId: string | null;
}

/** Records sandboxes, all or none, before their host hears of them, so that nothing on a host is without a record. */
export async function insertSandboxes(db: Db, sandboxes: readonly NewSandbox[]): Promise<SandboxRow[]> {
  return db.insertInto("sandbox").values(sandboxes.map(newRow)).returningAll().execute();
}

/** The same for one. */
export async function insertSandbox(db: Db, sandbox: NewSandbox): Promise<SandboxRow> {
  const [row] = await insertSandboxes(db, [sandbox]);
  return must(row, "the inserted row");
}

function newRow(sandbox: NewSandbox): Insertable<SandboxTable> {
  return {
    id: sandbox.id,
    team_id: sandbox.teamId,
    host_id: sandbox.hostId,
    template: sandbox.template,
    vcpus: sandbox.vcpus,
    memory_mib: sandbox.memoryMib,
    disk_size_mib: sandbox.diskSizeMib,
    timeout_sec: sandbox.timeoutSec,
    metadata: JSON.stringify(sandbox.metadata),
    access_token: sandbox.accessToken,
    state: "creating",
    generation: 0,
    failure_reason: null,
    stop_reason: null,
    vm_exit: null,
    versions: "{}",
    time_created: sandbox.timeCreated,
    time_started: null,
    time_last_active: sandbox.timeCreated,
    time_stopped: null,
    time_state_updated: sandbox.timeCreated,
    time_delete_requested: null,
    time_lost: null,
    auto_resume: sandbox.autoResume,
    checkpoint_interval_sec: sandbox.checkpointIntervalSec,
    start_path: null,
    current_generation: null,
    has_memory: false,
    time_paused: null,
    notice: null,
    expiry_sec: sandbox.expirySec,
    time_expires: null, // it counts from the start
    expiry_action: sandbox.expiryAction,
    expiry_memory: sandbox.expiryMemory,
    is_secure: sandbox.isSecure,
    network: JSON.stringify(sandbox.network),
    port_access: JSON.stringify(sandbox.portAccess ?? {}),
    traffic_token: sandbox.trafficToken,
    host_tags: JSON.stringify(sandbox.hostTags ?? []),
    template_build_id: sandbox.templateBuildId,
    template_snapshot_id: sandbox.templateSnapshotId,
    for_build_id: sandbox.forBuildId,
  };
}

/** A team's sandbox; undefined when it has none of that id. */
export async function findSandbox(db: Db, { id, team_id: teamId }: OwnedId): Promise<SandboxRow | undefined> {
  return db.selectFrom("sandbox").selectAll().where("id", "=", id).where("team_id", "=", teamId).executeTakeFirst();
}

/** Whosever they are: for what the platform itself does, never for what a caller names. */
export async function findSandboxesOfAnyTeam(db: Db, ids: readonly string[]): Promise<SandboxRow[]> {
  return ids.length === 0 ? [] : db.selectFrom("sandbox").selectAll().where("id", "in", ids).execute();
}

/** The same for one. */
export async function findSandboxOfAnyTeam(db: Db, id: string): Promise<SandboxRow | undefined> {
  return db.selectFrom("sandbox").selectAll().where("id", "=", id).executeTakeFirst();
}

/** `stale`: it is no news, or of a sandbox that has no record */
export type Applied = "applied" | "stale";

/**
 * Records what a host says of a sandbox, where that is news: a generation above the recorded one, or any word of a
 * sandbox that was taken for lost. A stopped one stays stopped, one without a record has none: the
 * reconciler sees to both.
 */
export async function applyObserved(db: Db, observed: ObservedSandbox, now: Date): Promise<Applied> {
  const columns = observedColumns(observed, now);
  const updated = await db
    .updateTable("sandbox")
    .set({
      ...columns,
      // the host's name of a built template or snapshot is not the users'
      template: sql<string>`CASE WHEN template_build_id IS NULL AND template_snapshot_id IS NULL THEN ${observed.template} ELSE template END`,
      time_lost: null,
      time_expires: expiryAfter(observed.state, now),
    })
    .where("id", "=", observed.id)
    .where("host_id", "=", observed.hostId)
    .where("state", "<>", "stopped")
    .where((row) =>
      row.or([
        row("generation", "<", observed.generation),
        row.and([row("time_lost", "is not", null), row("generation", "<=", observed.generation)]),
      ]),
    )
    .executeTakeFirst();
  return updated.numUpdatedRows > 0n ? "applied" : "stale";
}

function observedColumns(observed: ObservedSandbox, now: Date) {
  const stopped = observed.state === "stopped";
  return {
    vcpus: observed.vcpus,
    memory_mib: observed.memoryMib,
    disk_size_mib: observed.diskSizeMib,
    timeout_sec: observed.timeoutSec,
    access_token: stopped ? "" : observed.accessToken,
    state: observed.state,
    generation: observed.generation,
    failure_reason: observed.state === "failed" ? (observed.failureReason ?? "its host gave no reason") : null,
    stop_reason: observed.stopReason,
    vm_exit: observed.vmExit === null ? null : JSON.stringify(observed.vmExit),
    versions: JSON.stringify(observed.versions),
    time_started: observed.timeStarted,
    time_last_active: observed.timeLastActive,
    time_stopped: stopped ? now : null,
    time_state_updated: now,
    checkpoint_interval_sec: observed.checkpointIntervalSec,
    start_path: observed.startPath,
    current_generation: observed.currentGeneration,
    has_memory: observed.hasMemory,
    time_paused: observed.timePaused,
    notice: observed.notice,
  };
}

/** A start makes the time of a sandbox count anew; saving it while it runs does not touch it; else it has none. */
function expiryAfter(state: SandboxState, now: Date): RawBuilder<Date> {
  if (state === "pausing" || state === "snapshotting") return sql`time_expires`;
  if (state !== "running") return sql`NULL`;
  return sql`coalesce(time_expires, CASE WHEN expiry_sec > 0 THEN ${now}::timestamptz + make_interval(secs => expiry_sec) END)`;
}

/** Ends the record: its host has nothing of it any more. `reason` only where none was recorded before; `hostId`: only while that host has it. */
export async function markStopped(db: Db, id: string, reason: string, now: Date, hostId?: string): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({
      state: "stopped",
      failure_reason: null,
      access_token: "",
      time_stopped: now,
      time_state_updated: now,
      time_lost: null,
      time_paused: null,
      time_expires: null,
      notice: null,
      stop_reason: sql<string>`coalesce(stop_reason, ${reason})`,
    })
    .where("id", "=", id)
    .where("state", "<>", "stopped")
    .$if(hostId !== undefined, (query) => query.where("host_id", "=", hostId ?? ""))
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** What a create has where it is moved to. */
export type NewPlace = Pick<NewSandbox, "hostId" | "vcpus" | "memoryMib" | "diskSizeMib">;

/**
 * Moves a create to another host after its own refused it; its reservation moves along. False when it is not that host's to refuse any more: somebody deleted it, or
 * what the host said of it was heard.
 */
export async function moveCreating(db: Db, id: string, fromHostId: string, place: NewPlace, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({
      host_id: place.hostId,
      vcpus: place.vcpus,
      memory_mib: place.memoryMib,
      disk_size_mib: place.diskSizeMib,
      generation: 0,
      time_state_updated: now,
    })
    .where("id", "=", id)
    .where("host_id", "=", fromHostId)
    .where("state", "=", "creating")
    .where("time_delete_requested", "is", null)
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Fails a create that its host never completed, unless the host has said something of it meanwhile. */
export async function markCreateFailed(db: Db, id: string, reason: string, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({ state: "failed", failure_reason: reason, time_state_updated: now })
    .where("id", "=", id)
    .where("state", "=", "creating")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Fails a sandbox its host no longer knows, unless the record changed since `seen` was read. */
export async function markLost(db: Db, seen: SandboxRow, reason: string, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({
      state: "failed",
      failure_reason: reason,
      time_lost: now,
      time_state_updated: now,
      time_paused: null,
      time_expires: null,
      notice: null,
    })
    .where("id", "=", seen.id)
    .where("host_id", "=", seen.host_id) // it may have been moved
    .where("generation", "=", seen.generation)
    .where("state", "=", seen.state)
    .where("time_delete_requested", "is", null) // then its end is no loss
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** For a user: undefined when the team has no such sandbox that users see. */
export async function requestDelete(db: Db, { id, team_id: teamId }: OwnedId, now: Date): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ time_delete_requested: sql<Date>`coalesce(time_delete_requested, ${now})` })
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("for_build_id", "is", null)
    .returningAll()
    .executeTakeFirst();
}

/** The same for what the platform itself ends, whosever and whatever it is. */
export async function requestDeleteOfAnyTeam(db: Db, id: string, now: Date): Promise<SandboxRow | undefined> {
  return db
    .updateTable("sandbox")
    .set({ time_delete_requested: sql<Date>`coalesce(time_delete_requested, ${now})` })
    .where("id", "=", id)
    .returningAll()
    .executeTakeFirst();
}

/** The same for one that is still being created as far as anybody was told; false when it is not, so that nobody's word is taken back. */
export async function requestDeleteOfCreating(db: Db, id: string, now: Date): Promise<boolean> {
  const result = await db
    .updateTable("sandbox")
    .set({ time_delete_requested: sql<Date>`coalesce(time_delete_requested, ${now})` })
    .where("id", "=", id)
    .where("state", "=", "creating")
    .executeTakeFirst();
  return result.numUpdatedRows > 0n;
}

/** Forgets a create that left nothing anywhere. */
export async function forgetSandbox(db: Db, id: string): Promise<void> {
  await db.deleteFrom("sandbox").where("id", "=", id).where("state", "=", "creating").execute();
}

/** What a host should know: everything of it that has not stopped. */
export async function listOfHost(db: Db, hostId: string): Promise<SandboxRow[]> {
  return db.selectFrom("sandbox").selectAll().where("host_id", "=", hostId).where("state", "<>", "stopped").execute();
}

export async function countByState(db: Db): Promise<Map<SandboxState, number>> {
  const rows = await db
    .selectFrom("sandbox")
    .select(["state", (row) => row.fn.countAll<number>().as("count")])
    .groupBy("state")
    .execute();
  return new Map(rows.map((row) => [row.state, row.count]));
}

/** Deletes records of sandboxes that stopped before `before`; answers how many. */
export async function forgetStopped(db: Db, before: Date): Promise<number> {
  const result = await db.deleteFrom("sandbox").where("state", "=", "stopped").where("time_stopped", "<", before).executeTakeFirst();
  return Number(result.numDeletedRows);
}
