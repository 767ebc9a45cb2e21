import { randomUUID } from "node:crypto";

import { isHostTemplateName, PlatformError, type CreateSnapshotBody, type Snapshot } from "@roost/contract";
import type { Template } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { minute, type Logger } from "@roost/kit";

import type { Caller } from "../accounts/caller.ts";
import type { Database, Db } from "../db/database.ts";
import { ownedBy, type OwnedId } from "../db/owned-id.ts";
import {
  abandonSnapshot,
  deleteSnapshot,
  findSnapshot,
  findReadySnapshot,
  finishSnapshot,
  insertSnapshot,
  listSnapshots,
  type MadeSnapshot,
  type NameHolder,
  type SnapshotRow,
} from "../db/snapshots.ts";
import { emit } from "../events/outbox.ts";
import { callTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { SandboxRecords } from "../sandboxes/records.ts";
import { requireNotEnded } from "../sandboxes/require-state.ts";
import { hostTemplateOfSnapshot } from "../templates/names.ts";

/** How long in `ms` a snapshot's name is kept for who makes it: after that its maker has given up, or is no more */
const nameKeptMs = saveTimeoutMs + 1 * minute;

/** Writes down, in the transaction that begins a snapshot, what it is made for. */
export type RecordSnapshot = (transaction: Db, snapshotId: string) => Promise<void>;

export interface SnapshotsDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly log: Logger;
  /** There is something on hosts to be removed */
  readonly onRemoval: () => void;
  readonly now?: () => Date;
}

/**
 * Templates that were made from sandboxes. They are a team's, under the name that it gives them; hosts know them by others. The record comes first, so that
 * nothing on a host is without one, and what one loses its host deletes when it can (`template_removal`).
 */
export class Snapshots {
  readonly #deps: SnapshotsDependencies;

  constructor(deps: SnapshotsDependencies) {
    this.#deps = deps;
  }

  get #db() {
    return this.#deps.database.db;
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  /**
   * `replace`: a snapshot of that name gives way, when this one is ready. `record` writes down what it is made for, in the transaction that takes its name, so that
   * whoever finds that nobody works at it any more knows what to give back.
   */
  async create(
    caller: Caller,
    body: CreateSnapshotBody,
    { replace, record = async () => undefined }: { readonly replace: boolean; readonly record?: RecordSnapshot } = { replace: false },
  ): Promise<Snapshot> {
    const { hosts, records, log } = this.#deps;
    const { sandbox_id: sandboxId, name, memory } = body;
    const source = await records.get(ownedBy(caller.teamId, sandboxId));
    requireNotEnded(source, { kind: "snapshot" });
    await this.#requireUsersName(name);
    const host = hosts.get(source.host_id);
    const id = randomUUID();
    const hostTemplate = hostTemplateOfSnapshot(id);
    const begun = { id, teamId: caller.teamId, name, hostId: host.id, hostTemplate, hasMemory: memory, sourceSandboxId: sandboxId };
    const holder = await insertSnapshot(
      this.#db,
      { ...begun, timeCreated: this.#now() },
      { replace, waitMsMax: nameKeptMs },
      async (transaction) => record(transaction, id),
    );
    if (holder !== undefined) throw nameTaken(name, holder);
    const made = await this.#make(id, sandboxId, { hostTemplate, memory }, host);
    const row = await finishSnapshot(this.#db, id, made, this.#now(), async (transaction, { team_id: teamId }) =>
      emit(transaction, {
        kind: "snapshot.created",
        teamId,
        subject: { kind: "snapshot", id },
        actor: caller.actor,
        message: `snapshot "${name}" was made of sandbox ${sandboxId}`,
        detail: { name },
        sandboxId,
        template: name,
      }),
    );
    if (row === undefined) throw new PlatformError("snapshot_failed", `making the snapshot "${name}" took too long; make it again`);
    log.info({ sandboxId, snapshotId: id, teamId: row.team_id, hostId: host.id }, "snapshot created");
    this.#deps.onRemoval(); // perhaps of the one that it replaced
    await this.#refresh(sandboxId, host);
    return viewSnapshot(row);
  }

  /** A name that is neither a base template's, which are everybody's, nor the platform's own. */
  async #requireUsersName(name: string): Promise<void> {
    if (isHostTemplateName(name))
      throw new PlatformError("request_invalid", `name: "${name}" is not accepted: names like that are the platform's own`);
    if (await this.#isBase(name)) throw nameTaken(name, "base template");
  }

  async #isBase(name: string): Promise<boolean> {
    const described = await this.#deps.hosts.describe();
    return described.some(({ description }) =>
      description.templates.some((template) => template.kind === "base" && template.name === name),
    );
  }

  /** Has the host make it. One that fails has no name any more; that the host may have made it, or may yet, is the upkeep's matter. */
  async #make(
    id: string,
    sandboxId: string,
    { hostTemplate, memory }: { readonly hostTemplate: string; readonly memory: boolean },
    host: HostLink,
  ): Promise<MadeSnapshot> {
    try {
      const request = { sandboxId, name: hostTemplate, memory };
      const answer = await host.call(() => host.client.createTemplate(request, { timeoutMs: saveTimeoutMs }));
      host.forgetDescription();
      return madeFrom(answer.template, host.id);
    } catch (error) {
      this.#deps.log.info({ err: error, sandboxId, snapshotId: id }, "a snapshot could not be made");
      await abandonSnapshot(this.#db, id);
      throw error;
    }
  }

  /** The team's, by name. */
  async list(teamId: string): Promise<Snapshot[]> {
    return (await this.rows(teamId)).map(viewSnapshot);
  }

  /** The same as they are recorded. */
  async rows(teamId: string): Promise<SnapshotRow[]> {
    return listSnapshots(this.#db, teamId);
  }

  /** One that is ready. Throws `snapshot_not_found`. */
  async getById({ id, team_id: teamId }: OwnedId): Promise<Snapshot> {
    const row = await findReadySnapshot(this.#db, teamId, id);
    if (row === undefined) throw notFound(id);
    return viewSnapshot(row);
  }

  async get(teamId: string, name: string): Promise<Snapshot> {
    return viewSnapshot(await this.#find(teamId, name));
  }

  /** As it is recorded; undefined when the team has none of that very name. */
  async find(teamId: string, name: string): Promise<SnapshotRow | undefined> {
    return findSnapshot(this.#db, teamId, name);
  }

  /** Hosts delete it when they can; for its team it is gone at once. `snapshot_in_use` when sandboxes of it are there. */
  async delete(caller: Caller, name: string): Promise<void> {
    const row = await this.#find(caller.teamId, name);
    const deleted = await deleteSnapshot(this.#db, row.id, this.#now(), async (transaction) =>
      emit(transaction, {
        kind: "snapshot.deleted",
        teamId: row.team_id,
        subject: { kind: "snapshot", id: row.id },
        actor: caller.actor,
        message: `snapshot "${name}" was deleted`,
        detail: { name },
        template: name,
      }),
    );
    if (deleted === undefined) throw notFound(name);
    if (deleted.usedBy.length > 0) {
      throw new PlatformError(
        "snapshot_in_use",
        `snapshot "${name}" is used by ${deleted.usedBy.join(", ")}; delete those sandboxes first`,
      );
    }
    this.#deps.log.info({ snapshotId: row.id, teamId: row.team_id }, "snapshot deleted");
    this.#deps.onRemoval();
  }

  async #find(teamId: string, name: string): Promise<SnapshotRow> {
    const row = await this.find(teamId, name);
    if (row !== undefined) return row;
    if (!isHostTemplateName(name) && (await this.#isBase(name))) {
      throw new PlatformError("snapshot_not_found", `"${name}" is a base template, not a snapshot`);
    }
    throw notFound(name);
  }

  /** The snapshot made a generation of its sandbox; the watch will say so too. */
  async #refresh(sandboxId: string, host: HostLink): Promise<void> {
    try {
      const answer = await host.client.getSandbox({ sandboxId }, { timeoutMs: callTimeoutMs });
      await this.#deps.records.observe(observedFrom(answer.sandbox, host.id));
    } catch (error) {
      this.#deps.log.debug({ err: error, sandboxId }, "the record follows with the watch");
    }
  }
}

function notFound(name: string): PlatformError {
  return new PlatformError("snapshot_not_found", `there is no snapshot "${name}"`);
}

function nameTaken(name: string, holder: NameHolder | "base template"): PlatformError {
  return new PlatformError(
    "snapshot_exists",
    holder === "snapshot"
      ? `there is a snapshot "${name}" already; take another name, or delete it first`
      : `"${name}" is the name of a ${holder}; take another`,
  );
}

/** A snapshot as its host describes it; throws where that makes no sense. */
export function madeFrom(template: Template | undefined, hostId: string): MadeSnapshot {
  if (template === undefined || template.name === "") {
    throw new PlatformError("internal", "the host sent an answer that makes no sense", {
      detail: `host ${hostId} described a snapshot without a name`,
    });
  }
  return {
    digest: template.digest,
    hasMemory: template.hasMemory,
    vcpus: template.vcpus,
    memoryMib: template.memoryMib,
    diskSizeMib: template.diskSizeMib,
    sizeBytes: Number(template.sizeBytes),
  };
}

function viewSnapshot(row: SnapshotRow): Snapshot {
  return {
    name: row.name,
    created_at: row.time_created.toISOString(),
    source_sandbox_id: row.source_sandbox_id,
    has_memory: row.has_memory,
    vcpus: row.vcpus === 0 ? null : row.vcpus,
    memory_mb: row.memory_mib === 0 ? null : row.memory_mib,
    disk_mb: row.disk_size_mib,
    size_bytes: row.size_bytes,
    digest: row.digest,
  };
}
