import { newId, type DrainMode, type HeartbeatBody, type HostState } from "@roost/contract";
import { sql, type Selectable } from "kysely";

import type { Db } from "./database.ts";
import type { HostTable } from "./schema-hosts.ts";
import type { TemplateTable } from "./schema.ts";

export type HostRow = Selectable<HostTable>;

/** Columns of a host that is drained no longer. */
const notDraining = {
  drain_mode: null,
  time_drain_started: null,
  time_drained: null,
  drain_problem: null,
  drain_claimed_by: null,
  time_drain_claim_ends: null,
} as const;

export async function listHosts(db: Db): Promise<HostRow[]> {
  return db.selectFrom("host").selectAll().orderBy("name").orderBy("id").execute();
}

export async function findHost(db: Db, id: string): Promise<HostRow | undefined> {
  return db.selectFrom("host").selectAll().where("id", "=", id).executeTakeFirst();
}

/** Records a host that is part of the control plane's process, unless it is recorded. */
export async function ensureHost(db: Db, id: string, now: Date): Promise<void> {
  await db
    .insertInto("host")
    .values({ id, name: id, state: "ready", time_created: now })
    .onConflict((conflict) => conflict.doNothing())
    .execute();
  if ((await findHost(db, id)) !== undefined) return;
  // somebody gave its name to another host
  await db
    .insertInto("host")
    .values({ id, name: `${id} ${newId("h")}`, state: "ready", time_created: now })
    .onConflict((conflict) => conflict.column("id").doNothing())
    .execute();
}

export interface NewHost {
  readonly id: string;
  readonly name: string;
  readonly tags: readonly string[];
  readonly teamId: string | null;
}

/** Undefined when another host has the name. */
export async function insertHost(db: Db, host: NewHost, now: Date): Promise<HostRow | undefined> {
  return db
    .insertInto("host")
    .values({
      id: host.id,
      name: host.name,
      state: "pending",
      tags: JSON.stringify(host.tags),
      team_id: host.teamId,
      time_created: now,
    })
    .onConflict((conflict) => conflict.doNothing())
    .returningAll()
    .executeTakeFirst();
}

export interface HostChange {
  readonly name?: string | undefined;
  readonly tags?: readonly string[] | undefined;
  readonly teamId?: string | null | undefined;
}

/** Undefined when the host has changed since it was read. */
export async function changeHost(db: Db, seen: HostRow, change: HostChange): Promise<HostRow | undefined> {
  return db
    .updateTable("host")
    .set((row) => ({
      name: change.name ?? seen.name,
      tags: JSON.stringify(change.tags ?? seen.tags),
      team_id: change.teamId === undefined ? seen.team_id : change.teamId,
      generation: row("generation", "+", 1),
    }))
    .where("id", "=", seen.id)
    .where("generation", "=", seen.generation)
    .returningAll()
    .executeTakeFirst();
}

export async function hasHostName(db: Db, name: string, otherThanId: string): Promise<boolean> {
  const found = await db
    .selectFrom("host")
    .select("id")
    .where(sql`lower(name)`, "=", name.toLowerCase())
    .where("id", "<>", otherThanId)
    .executeTakeFirst();
  return found !== undefined;
}

/** Moves a host to another state (or drains it in another mode); undefined when it has changed since it was read. */
export async function moveHost(
  db: Db,
  seen: HostRow,
  next: { readonly state: HostState; readonly drainMode: DrainMode | null },
  now: Date,
): Promise<HostRow | undefined> {
  const drain = next.drainMode === null ? notDraining : { ...notDraining, drain_mode: next.drainMode, time_drain_started: now };
  return db
    .updateTable("host")
    .set((row) => ({ state: next.state, ...drain, generation: row("generation", "+", 1) }))
    .where("id", "=", seen.id)
    .where("generation", "=", seen.generation)
    .returningAll()
    .executeTakeFirst();
}

/** Forgets a host, its registrations and its templates; false when it has changed since it was read. */
export async function deleteHost(db: Db, seen: HostRow): Promise<boolean> {
  const result = await db.deleteFrom("host").where("id", "=", seen.id).where("generation", "=", seen.generation).executeTakeFirst();
  return result.numDeletedRows > 0n;
}

export interface Told extends Pick<HeartbeatBody, "description" | "load" | "health"> {
  /** undefined: as it was */
  readonly address?: string;
  readonly clockOffsetMs: number;
}

/**
 * Records what a host told, and that it is there until its lease ends. In a transaction. Undefined when there is no such host; else the row as it is now, and
 * whether it had been called unreachable. Two that cross are told apart by when they came: the lease never gets shorter.
 */
export async function recordHeartbeat(
  db: Db,
  id: string,
  told: Told,
  now: Date,
  leaseEnds: Date,
): Promise<{ readonly row: HostRow; readonly wasUnreachable: boolean } | undefined> {
  const before = await db.selectFrom("host").select("time_unreachable").where("id", "=", id).forUpdate().executeTakeFirst();
  if (before === undefined) return undefined;
  const { description, load, health } = told;
  const row = await db
    .updateTable("host")
    .set({
      ...(told.address === undefined ? {} : { address: told.address }),
      description: JSON.stringify(description),
      load: JSON.stringify(load),
      health: JSON.stringify(health),
      cpu_count: description.cpu_count,
      memory_mib: description.memory_mb,
      disk_mib: description.disk_mb,
      clock_offset_ms: told.clockOffsetMs,
      time_last_seen: now,
      time_lease_ends: sql<Date>`greatest(time_lease_ends, ${leaseEnds})`,
      time_unreachable: null,
    })
    .where("id", "=", id)
    .returningAll()
    .executeTakeFirstOrThrow();
  return { row, wasUnreachable: before.time_unreachable !== null };
}

/** Calls hosts unreachable whose lease has ended; each is answered to one caller only. */
export async function markUnreachable(db: Db, now: Date): Promise<HostRow[]> {
  return db
    .updateTable("host")
    .set({ time_unreachable: now })
    .where("time_unreachable", "is", null)
    .where("state", "<>", "pending")
    .where("time_lease_ends", "<", now)
    .returningAll()
    .execute();
}

/** Records which templates a host has, as a whole. Nothing when the host was deleted meanwhile. */
export async function recordTemplates(db: Db, hostId: string, templates: readonly Omit<TemplateTable, "host_id">[]): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    const host = await transaction.selectFrom("host").select("id").where("id", "=", hostId).forUpdate().executeTakeFirst();
    if (host === undefined) return;
    await transaction.deleteFrom("template").where("host_id", "=", hostId).execute();
    if (templates.length > 0) {
      await transaction
        .insertInto("template")
        .values(templates.map((template) => ({ host_id: hostId, ...columnsOf(template) })))
        .execute();
    }
  });
}

/** A host says more of a template than is recorded. */
function columnsOf(template: Omit<TemplateTable, "host_id">): Omit<TemplateTable, "host_id"> {
  const { name, kind, digest, disk_size_mib, has_memory, vcpus, memory_mib } = template;
  return { name, kind, digest, disk_size_mib, has_memory, vcpus, memory_mib };
}

/** Templates of all hosts ever seen, by name; of several builds of one name the first by digest. */
export async function listTemplates(db: Db): Promise<Omit<TemplateTable, "host_id">[]> {
  return db
    .selectFrom("template")
    .select(["name", "kind", "digest", "disk_size_mib", "has_memory", "vcpus", "memory_mib"])
    .distinctOn("name")
    .orderBy("name")
    .orderBy("digest")
    .execute();
}

/** Sandboxes on a host that have not ended, the oldest first, and how many there are of them. */
export async function listSandboxesOn(
  db: Db,
  hostId: string,
  limit: number,
): Promise<{ readonly count: number; readonly rows: { readonly id: string; readonly state: string; readonly team_id: string }[] }> {
  const { count } = await db
    .selectFrom("sandbox")
    .select((row) => row.fn.countAll<number>().as("count"))
    .where("host_id", "=", hostId)
    .where("state", "<>", "stopped")
    .executeTakeFirstOrThrow();
  const rows = await db
    .selectFrom("sandbox")
    .select(["id", "state", "team_id"])
    .where("host_id", "=", hostId)
    .where("state", "<>", "stopped")
    .orderBy("time_created")
    .orderBy("id")
    .limit(limit)
    .execute();
  return { count, rows };
}

/** Templates that only this host has. */
export async function listTemplatesOnlyOn(db: Db, hostId: string): Promise<string[]> {
  const rows = await db
    .selectFrom("template as own")
    .select("own.name")
    .where("own.host_id", "=", hostId)
    .where((where) =>
      where.not(
        where.exists(
          where
            .selectFrom("template as other")
            .select("other.name")
            .whereRef("other.name", "=", "own.name")
            .where("other.host_id", "<>", hostId),
        ),
      ),
    )
    .orderBy("own.name")
    .execute();
  return rows.map((row) => row.name);
}
