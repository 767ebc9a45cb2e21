import type { SandboxState } from "@roost/contract";

import type { Db } from "./database.ts";
import type { HostRow } from "./hosts.ts";
import type { SandboxRow } from "./sandboxes.ts";

/** Hosts being drained that this control plane works at until `claimEnds`: those that it had, and those that nobody has. */
export async function claimDrains(db: Db, who: string, now: Date, claimEnds: Date): Promise<HostRow[]> {
  return db
    .updateTable("host")
    .set({ drain_claimed_by: who, time_drain_claim_ends: claimEnds })
    .where("state", "=", "draining")
    .where((where) =>
      where.or([where("drain_claimed_by", "=", who), where("time_drain_claim_ends", "is", null), where("time_drain_claim_ends", "<", now)]),
    )
    .returningAll()
    .execute();
}

/** Lets others take over at once what this control plane has claimed. */
export async function releaseDrains(db: Db, who: string): Promise<void> {
  await db.updateTable("host").set({ drain_claimed_by: null, time_drain_claim_ends: null }).where("drain_claimed_by", "=", who).execute();
}

/** Whether the drain is still the one that was seen. */
export async function isDraining(db: Db, seen: HostRow): Promise<boolean> {
  const found = await db
    .selectFrom("host")
    .select("id")
    .where("id", "=", seen.id)
    .where("state", "=", "draining")
    .where("time_drain_started", "=", seen.time_drain_started)
    .executeTakeFirst();
  return found !== undefined;
}

const withVm = ["creating", "running", "pausing", "resuming", "snapshotting", "stopping"] as const satisfies readonly SandboxState[];

/** What a drain needs to know of a sandbox. */
export type ActiveSandbox = Pick<SandboxRow, "id" | "state" | "generation" | "for_build_id">;

/** Sandboxes on a host that have, or are about to have, a VM. */
export async function listActiveOn(db: Db, hostId: string): Promise<ActiveSandbox[]> {
  return db
    .selectFrom("sandbox")
    .select(["id", "state", "generation", "for_build_id"])
    .where("host_id", "=", hostId)
    .where("state", "in", withVm)
    .orderBy("time_last_active")
    .orderBy("id")
    .execute();
}

/** Nothing runs there any more; the host, the first time that this is said of its drain. */
export async function markDrained(db: Db, seen: HostRow, now: Date): Promise<HostRow | undefined> {
  return db
    .updateTable("host")
    .set({ time_drained: now, drain_problem: null })
    .where("id", "=", seen.id)
    .where("state", "=", "draining")
    .where("time_drain_started", "=", seen.time_drain_started)
    .where("time_drained", "is", null)
    .returningAll()
    .executeTakeFirst();
}

/** What keeps the drain from its end, for operators. */
export async function noteDrainProblem(db: Db, seen: HostRow, problem: string | null): Promise<void> {
  await db
    .updateTable("host")
    .set({ drain_problem: problem })
    .where("id", "=", seen.id)
    .where("state", "=", "draining")
    .where("time_drain_started", "=", seen.time_drain_started)
    .where("drain_problem", "is distinct from", problem)
    .execute();
}

/** Sandboxes there that have not ended, and moves from there that are not over. */
export async function countOn(db: Db, hostId: string): Promise<number> {
  const sandboxes = await db
    .selectFrom("sandbox")
    .select((row) => row.fn.countAll<number>().as("count"))
    .where("host_id", "=", hostId)
    .where("state", "<>", "stopped")
    .executeTakeFirstOrThrow();
  const moves = await db
    .selectFrom("sandbox_move")
    .select((row) => row.fn.countAll<number>().as("count"))
    .where("from_host_id", "=", hostId)
    .executeTakeFirstOrThrow();
  return sandboxes.count + moves.count;
}
