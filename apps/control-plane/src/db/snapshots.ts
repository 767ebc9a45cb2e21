import type { Selectable } from "kysely";

import { findBuiltTemplate, removeFromHosts } from "./built-templates.ts";
import type { Db } from "./database.ts";
import type { SnapshotTable } from "./schema.ts";
import { lockTeam } from "./teams.ts";

/** Records of snapshots. Names are a team's, and change hands only while the team is locked: two of one name never are there. */

export type SnapshotRow = Selectable<SnapshotTable>;

export interface NewSnapshot {
  readonly id: string;
  readonly teamId: string;
  readonly name: string;
  readonly hostId: string;
  readonly hostTemplate: string;
  readonly hasMemory: boolean;
  readonly sourceSandboxId: string;
  readonly timeCreated: Date;
}

/** What a host says of a template that it has made. */
export interface MadeSnapshot {
  readonly digest: string;
  readonly hasMemory: boolean;
  /** 0: any, likewise memory */
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskSizeMib: number;
  readonly sizeBytes: number;
}

/** What has the name of a snapshot that is to be made. */
export type NameHolder = "snapshot" | "built template";

/** Records a snapshot before its host makes it. Answers what has its name, if something does that is not to be replaced: then nothing is recorded. */
export async function insertSnapshot(
  db: Db,
  snapshot: NewSnapshot,
  { replace, waitMsMax }: { readonly replace: boolean; /** How long in `ms` who makes one waits for it */ readonly waitMsMax: number },
  record: (transaction: Db) => Promise<void> = async () => undefined,
): Promise<NameHolder | undefined> {
  return db.transaction().execute(async (transaction) => {
    await record(transaction); // first: who asks for the same again is to wait for that, not to find the name taken
    await lockTeam(transaction, snapshot.teamId);
    const isAwaited = (time: Date) => time.getTime() > snapshot.timeCreated.getTime() - waitMsMax;
    const holders = await holdersOf(transaction, snapshot.teamId, snapshot.name);
    const isTaken = holders.some(({ state, time_created: time }) => state === "ready" || (state === "creating" && isAwaited(time)));
    if (isTaken && !replace) return "snapshot";
    const [name = ""] = snapshot.name.toLowerCase().split(":", 1);
    if ((await findBuiltTemplate(transaction, snapshot.teamId, name)) !== undefined) return "built template";
    await transaction
      .insertInto("snapshot")
      .values({
        id: snapshot.id,
        team_id: snapshot.teamId,
        name: snapshot.name,
        state: "creating",
        host_id: snapshot.hostId,
        host_template: snapshot.hostTemplate,
        digest: "",
        has_memory: snapshot.hasMemory,
        vcpus: 0,
        memory_mib: 0,
        disk_size_mib: 0,
        size_bytes: 0,
        source_sandbox_id: snapshot.sourceSandboxId,
        time_created: snapshot.timeCreated,
      })
      .execute();
    return undefined;
  });
}

async function holdersOf(
  db: Db,
  teamId: string,
  name: string,
): Promise<Pick<SnapshotRow, "id" | "state" | "host_template" | "time_created">[]> {
  return db
    .selectFrom("snapshot")
    .select(["id", "state", "host_template", "time_created"])
    .where("team_id", "=", teamId)
    .where("name", "=", name)
    .execute();
}

/**
 * Gives a snapshot that its host has made its name. One that has the name gives way: who made it `replace` asked for that, and else there is none.
 * `then` is part of it. Undefined when it was removed meanwhile, because it took too long.
 */
export async function finishSnapshot(
  db: Db,
  id: string,
  made: MadeSnapshot,
  now: Date,
  then: (transaction: Db, row: SnapshotRow) => Promise<void>,
): Promise<SnapshotRow | undefined> {
  return db.transaction().execute(async (transaction) => {
    const known = await transaction.selectFrom("snapshot").select(["team_id", "name"]).where("id", "=", id).executeTakeFirst();
    if (known === undefined) return undefined;
    await lockTeam(transaction, known.team_id);
    const before = (await holdersOf(transaction, known.team_id, known.name)).find(({ state }) => state === "ready");
    if (before !== undefined) await removeRow(transaction, before, now);
    const row = await transaction
      .updateTable("snapshot")
      .set({
        state: "ready",
        digest: made.digest,
        has_memory: made.hasMemory,
        vcpus: made.vcpus,
        memory_mib: made.memoryMib,
        disk_size_mib: made.diskSizeMib,
        size_bytes: made.sizeBytes,
      })
      .where("id", "=", id)
      .where("state", "=", "creating")
      .returningAll()
      .executeTakeFirst();
    if (row !== undefined) await then(transaction, row);
    return row;
  });
}

async function removeRow(db: Db, { id, host_template: name }: Pick<SnapshotRow, "id" | "host_template">, now: Date): Promise<void> {
  await db.deleteFrom("snapshot").where("id", "=", id).execute();
  await removeFromHosts(db, [name], now);
}

/** One that is ready, by its id. */
export async function findReadySnapshot(db: Db, teamId: string, id: string): Promise<SnapshotRow | undefined> {
  return db
    .selectFrom("snapshot")
    .selectAll()
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("state", "=", "ready")
    .executeTakeFirst();
}

/** Nobody waits for it any more. Its name is free; its host may be making it still. */
export async function abandonSnapshot(db: Db, id: string): Promise<void> {
  await db.updateTable("snapshot").set({ state: "abandoned" }).where("id", "=", id).where("state", "=", "creating").execute();
}

/** Forgets what was begun before `before` and did not become ready: by then its host has made it or never will. Answers how many. */
export async function forgetUnready(db: Db, before: Date, now: Date): Promise<number> {
  return db.transaction().execute(async (transaction) => {
    const rows = await transaction
      .deleteFrom("snapshot")
      .where("state", "<>", "ready")
      .where("time_created", "<", before)
      .returning("host_template")
      .execute();
    if (rows.length > 0) {
      await removeFromHosts(
        transaction,
        rows.map((row) => row.host_template),
        now,
      );
    }
    return rows.length;
  });
}

export async function findSnapshot(db: Db, teamId: string, name: string): Promise<SnapshotRow | undefined> {
  return db
    .selectFrom("snapshot")
    .selectAll()
    .where("team_id", "=", teamId)
    .where("name", "=", name)
    .where("state", "=", "ready")
    .executeTakeFirst();
}

/** A team's, by name. */
export async function listSnapshots(db: Db, teamId: string): Promise<SnapshotRow[]> {
  return db.selectFrom("snapshot").selectAll().where("team_id", "=", teamId).where("state", "=", "ready").orderBy("name").execute();
}

/** Keeps a snapshot from being deleted until the transaction ends; false when it is gone already. */
export async function lockSnapshot(db: Db, id: string): Promise<boolean> {
  return (await db.selectFrom("snapshot").select("id").where("id", "=", id).forShare().executeTakeFirst()) !== undefined;
}

/** Sandboxes that are named as what keeps a snapshot */
const sandboxesNamedMax = 5;

/**
 * Deletes a snapshot unless sandboxes of it are there, whose ids it answers; what its host has is noted for removal. `then` is part of it. Undefined when it
 * was gone already.
 */
export async function deleteSnapshot(
  db: Db,
  id: string,
  now: Date,
  then: (transaction: Db) => Promise<void>,
): Promise<{ readonly usedBy: readonly string[] } | undefined> {
  return db.transaction().execute(async (transaction) => {
    const row = await transaction
      .selectFrom("snapshot")
      .select(["id", "host_template"])
      .where("id", "=", id)
      .forUpdate()
      .executeTakeFirst();
    if (row === undefined) return undefined;
    const users = await transaction
      .selectFrom("sandbox")
      .select("id")
      .where("template_snapshot_id", "=", id)
      .where("state", "<>", "stopped")
      .orderBy("time_created", "desc")
      .limit(sandboxesNamedMax)
      .execute();
    if (users.length > 0) return { usedBy: users.map((user) => user.id) };
    await removeRow(transaction, row, now);
    await then(transaction);
    return { usedBy: [] };
  });
}

/** A snapshot as a host has it. */
export interface FoundSnapshot extends MadeSnapshot {
  /** Its name there */
  readonly hostTemplate: string;
  readonly sourceSandboxId: string | null;
  readonly timeCreated: Date;
}

/** Records what a host has had since before snapshots were recorded, under the names that it has there; not what is about to be removed, and no second one of a name. */
export async function adoptSnapshots(db: Db, teamId: string, hostId: string, found: readonly FoundSnapshot[]): Promise<string[]> {
  if (found.length === 0) return [];
  const names = found.map(({ hostTemplate }) => hostTemplate);
  return db.transaction().execute(async (transaction) => {
    await lockTeam(transaction, teamId);
    const known = await transaction
      .selectFrom("snapshot")
      .select("host_template as name")
      .where("host_template", "in", names)
      .union(transaction.selectFrom("template_removal").select("name").where("name", "in", names))
      .union(transaction.selectFrom("snapshot").select("name").where("team_id", "=", teamId).where("name", "in", names))
      .execute();
    const isKnown = new Set(known.map(({ name }) => name));
    const adopted = found.filter(({ hostTemplate }) => !isKnown.has(hostTemplate));
    if (adopted.length === 0) return [];
    await transaction
      .insertInto("snapshot")
      .values(
        adopted.map((snapshot) => ({
          id: crypto.randomUUID(),
          team_id: teamId,
          name: snapshot.hostTemplate,
          state: "ready" as const,
          host_id: hostId,
          host_template: snapshot.hostTemplate,
          digest: snapshot.digest,
          has_memory: snapshot.hasMemory,
          vcpus: snapshot.vcpus,
          memory_mib: snapshot.memoryMib,
          disk_size_mib: snapshot.diskSizeMib,
          size_bytes: snapshot.sizeBytes,
          source_sandbox_id: snapshot.sourceSandboxId,
          time_created: snapshot.timeCreated,
        })),
      )
      .execute();
    return adopted.map(({ hostTemplate }) => hostTemplate);
  });
}

/** A host puts a snapshot's files in order after it was made: then they have another size, and another digest. */
export async function refreshSnapshots(db: Db, found: readonly FoundSnapshot[]): Promise<void> {
  if (found.length === 0) return;
  const known = await db
    .selectFrom("snapshot")
    .select(["id", "host_template", "digest", "size_bytes"])
    .where(
      "host_template",
      "in",
      found.map(({ hostTemplate }) => hostTemplate),
    )
    .where("state", "=", "ready")
    .execute();
  const byName = new Map(found.map((snapshot) => [snapshot.hostTemplate, snapshot]));
  for (const row of known) {
    const now = byName.get(row.host_template);
    if (now === undefined || (now.digest === row.digest && now.sizeBytes === row.size_bytes)) continue;
    await db.updateTable("snapshot").set({ digest: now.digest, size_bytes: now.sizeBytes }).where("id", "=", row.id).execute();
  }
}
