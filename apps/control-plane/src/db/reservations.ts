import { vmOverheadMib, type HostState, type TeamQuota } from "@roost/contract";
import { sql } from "kysely";

import type { Db } from "./database.ts";

/** What of a host or of a team's quota is taken. */
export interface Taken {
  /** Sandboxes that run, or are about to */
  readonly running: number;
  /** Saved ones, too */
  readonly sandboxes: number;
  readonly vcpus: number;
  /** What hosts set aside: guests, and what their VMMs need beside */
  readonly memoryMib: number;
  /** Of guests only */
  readonly guestMemoryMib: number;
  readonly diskMib: number;
}

const runs = sql<boolean>`kind = 'running'`;

const sums = [
  sql<number>`count(*) FILTER (WHERE ${runs})`.as("running"),
  sql<number>`count(*)`.as("sandboxes"),
  sql<number>`coalesce(sum(vcpus) FILTER (WHERE ${runs}), 0)::bigint`.as("vcpus"),
  sql<number>`coalesce(sum(memory_mib + ${sql.lit(vmOverheadMib)}) FILTER (WHERE ${runs}), 0)::bigint`.as("memoryMib"),
  sql<number>`coalesce(sum(memory_mib) FILTER (WHERE ${runs}), 0)::bigint`.as("guestMemoryMib"),
  sql<number>`coalesce(sum(disk_mib), 0)::bigint`.as("diskMib"),
] as const;

export const nothingTaken: Taken = { running: 0, sandboxes: 0, vcpus: 0, memoryMib: 0, guestMemoryMib: 0, diskMib: 0 };

/** By host. */
export async function listTaken(db: Db): Promise<ReadonlyMap<string, Taken>> {
  const rows = await db.selectFrom("host_reservation").select("host_id").select(sums).groupBy("host_id").execute();
  return new Map(rows.map(({ host_id: hostId, ...taken }) => [hostId, taken]));
}

/** Of one host. Exact from `lockHost` on, until the transaction ends. */
export async function takenOfHost(db: Db, hostId: string): Promise<Taken> {
  return db.selectFrom("host_reservation").select(sums).where("host_id", "=", hostId).executeTakeFirstOrThrow();
}

/** Of one team. Exact from `lockTeam` on, until the transaction ends. */
export async function takenOfTeam(db: Db, teamId: string): Promise<Taken> {
  return db.selectFrom("reservation").select(sums).where("team_id", "=", teamId).executeTakeFirstOrThrow();
}

/**
 * Lets nobody else reserve on a host until the transaction ends; undefined when there is no such host. Whoever locks a team and a host locks the team first.
 */
export async function lockHost(db: Db, hostId: string): Promise<{ readonly state: HostState; readonly teamId: string | null } | undefined> {
  // not FOR UPDATE: rows that refer to it may be written meanwhile
  return db.selectFrom("host").select(["state", "team_id as teamId"]).where("id", "=", hostId).forNoKeyUpdate().executeTakeFirst();
}

/** The same for what counts against a team's quota. */
export async function lockTeam(db: Db, teamId: string): Promise<Partial<TeamQuota>> {
  const row = await db.selectFrom("team").select("quota").where("id", "=", teamId).forNoKeyUpdate().executeTakeFirst();
  return row?.quota ?? {};
}

export async function quotaOfTeam(db: Db, teamId: string): Promise<Partial<TeamQuota>> {
  const row = await db.selectFrom("team").select("quota").where("id", "=", teamId).executeTakeFirst();
  return row?.quota ?? {};
}

/** Has a sandbox hold all that it needs to run, until the operation ends: or until the one does that has it hold that already. Answers whether it held less; undefined when it is not there. */
export async function holdToRun(db: Db, sandboxId: string, operationId: string): Promise<{ readonly heldLess: boolean } | undefined> {
  const before = db.selectFrom("reservation").select(["sandbox_id", "kind"]).where("sandbox_id", "=", sandboxId).forUpdate();
  const row = await db
    .with("before", () => before)
    .updateTable("reservation")
    .from("before")
    .set({ kind: "running", held_by: sql<string>`coalesce(reservation.held_by, ${operationId}::uuid)` })
    .whereRef("reservation.sandbox_id", "=", "before.sandbox_id")
    .returning("before.kind as kindBefore")
    .executeTakeFirst();
  return row === undefined ? undefined : { heldLess: row.kindBefore === "paused" };
}

/** Gives back what operations hold that have ended, or are not there. Answers how many. */
export async function releaseHeldByNobody(db: Db): Promise<number> {
  const result = await db
    .updateTable("reservation")
    .from("sandbox")
    .set({ held_by: null, kind: sql<"running" | "paused">`reservation_kind(sandbox.state, sandbox.time_paused)` })
    .whereRef("sandbox.id", "=", "reservation.sandbox_id")
    .where("reservation.held_by", "is not", null)
    .where((row) =>
      row.not(
        row.exists(
          row
            .selectFrom("operation")
            .select("operation.id")
            .whereRef("operation.id", "=", "reservation.held_by")
            .where("operation.state", "=", "running"),
        ),
      ),
    )
    .executeTakeFirst();
  return Number(result.numUpdatedRows);
}

/** What a reservation is to be, where it is not. */
const isUnsettled = sql<boolean>`(
  reservation.host_id <> sandbox.host_id OR reservation.vcpus <> sandbox.vcpus OR reservation.memory_mib <> sandbox.memory_mib
  OR reservation.disk_mib <> sandbox.disk_size_mib
  OR (reservation.held_by IS NULL AND reservation.kind <> reservation_kind(sandbox.state, sandbox.time_paused)))`;

/** Sandboxes whose reservation is not what their record says, too many or too few: there are none, unless somebody changed the database by hand. */
export async function listUnsettled(db: Db): Promise<string[]> {
  const rows = await db
    .selectFrom("sandbox")
    .leftJoin("reservation", "reservation.sandbox_id", "sandbox.id")
    .select("sandbox.id")
    .where(
      sql<boolean>`CASE WHEN sandbox.state = 'stopped' THEN reservation.sandbox_id IS NOT NULL ELSE reservation.sandbox_id IS NULL OR ${isUnsettled} END`,
    )
    .execute();
  return rows.map((row) => row.id);
}

/** Makes these reservations what the records say. */
export async function settle(db: Db, sandboxIds: readonly string[]): Promise<void> {
  if (sandboxIds.length === 0) return;
  await db.transaction().execute(async (transaction) => {
    const records = await transaction.selectFrom("sandbox").selectAll().where("id", "in", sandboxIds).forNoKeyUpdate().execute();
    for (const record of records) {
      await transaction.deleteFrom("reservation").where("sandbox_id", "=", record.id).where("held_by", "is", null).execute();
      if (record.state === "stopped") continue;
      await transaction
        .insertInto("reservation")
        .values({
          sandbox_id: record.id,
          host_id: record.host_id,
          team_id: record.for_build_id === null ? record.team_id : null,
          vcpus: record.vcpus,
          memory_mib: record.memory_mib,
          disk_mib: record.disk_size_mib,
          kind: sql<"running" | "paused">`reservation_kind(${record.state}, ${record.time_paused}::timestamptz)`,
          held_by: null,
          time_created: record.time_state_updated,
        })
        .onConflict((conflict) => conflict.column("sandbox_id").doNothing())
        .execute();
    }
  });
}
