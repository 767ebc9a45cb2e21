import { randomUUID } from "node:crypto";

import type { ErrorCode, PlatformError } from "@roost/contract";
import type { Transaction } from "kysely";

import { insertMove, renewMove, type MoveRow } from "../db/moves.ts";
import { listBusySandboxes } from "../db/operations.ts";
import type { Database } from "../db/database.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import type { Tables } from "../db/schema.ts";
import type { HostInfo } from "../hosts/host-info.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { HolderOfTemplate, PlaceRequest, Placements } from "../placement/placements.ts";

export interface DestinationsDependencies {
  readonly database: Database;
  readonly hosts: Hosts;
  readonly placements: Placements;
}

/** `busy`: it is not what it was when it was seen, or somebody is at work on it; nothing is wrong with that */
export type Found = { readonly kind: "begun" } | { readonly kind: "busy" } | { readonly kind: "nowhere"; readonly why: string };

/** What a destination says that makes others worth asking first. */
const refusals: ReadonlySet<ErrorCode> = new Set([
  "capacity_exhausted",
  "host_disk_full",
  "image_incompatible",
  "host_unreachable",
  "shutting_down",
]);

/** Somebody else begins to move it, or it has changed. */
class NotAsSeen extends Error {
  override readonly name = "NotAsSeen";
}

/** Finds where sandboxes can be moved to: a host of the team or everybody's that takes new ones, is the same machine as far as saved memory goes, and has room, which is reserved. */
export class Destinations {
  readonly #deps: DestinationsDependencies;

  constructor(deps: DestinationsDependencies) {
    this.#deps = deps;
  }

  async begin(sandbox: SandboxRow, now: Date): Promise<Found> {
    if (sandbox.for_build_id !== null) return { kind: "nowhere", why: "a build works in it, which ends by itself" };
    if (sandbox.time_lost !== null) return { kind: "nowhere", why: "its host has lost it; delete it" };
    if ((await listBusySandboxes(this.#deps.database.db)).has(sandbox.id)) return { kind: "busy" };
    const move = { sandboxId: sandbox.id, moveId: randomUUID(), fromHostId: sandbox.host_id };
    return this.#place(sandbox, sandbox.state === "running", async (db, toHostId) => insertMove(db, { ...move, toHostId }, now));
  }

  /** For one that was undone, and is saved, and ran before. */
  async again(sandbox: SandboxRow, move: MoveRow, now: Date): Promise<Found> {
    return this.#place(sandbox, true, async (db, toHostId) => renewMove(db, move, { moveId: randomUUID(), toHostId }, now));
  }

  /** Its destination did not take a sandbox: another one is preferred for a moment. */
  refused(move: MoveRow, error: PlatformError): void {
    const host = this.#deps.hosts.all().find(({ id }) => id === move.to_host_id);
    if (host !== undefined && refusals.has(error.code)) this.#deps.placements.refusedBy(host);
  }

  async #place(
    sandbox: SandboxRow,
    runs: boolean,
    record: (transaction: Transaction<Tables>, toHostId: string) => Promise<boolean>,
  ): Promise<Found> {
    const { hosts, placements } = this.#deps;
    const source = await hosts.get(sandbox.host_id).describe();
    const takers = (await hosts.describeTakers(sandbox.team_id)).filter(({ host }) => host.id !== sandbox.host_id);
    if (takers.length === 0) return { kind: "nowhere", why: "no other host takes sandboxes of its team right now" };
    const needsMemory = runs || sandbox.has_memory;
    const fitting = takers.filter(({ description }) =>
      needsMemory ? isSameMachine(source.info, description.info) : source.info.arch === description.info.arch,
    );
    if (fitting.length === 0) {
      return {
        kind: "nowhere",
        why: `its memory could go on at no other host: none has the same VMM, accelerator and CPU (${source.info.vmm_version}, ${source.info.accelerator})`,
      };
    }
    const holders = fitting.map(({ host }): HolderOfTemplate => ({ host, template: { has_memory: false } }));
    try {
      const placed = await placements.placeElsewhere(requestOf(sandbox, runs), holders, async (transaction, { host }) => {
        if (!(await record(transaction, host.id))) throw new NotAsSeen("the sandbox has changed");
      });
      return placed === undefined ? { kind: "nowhere", why: "no other host has room for it right now" } : { kind: "begun" };
    } catch (error) {
      if (error instanceof NotAsSeen) return { kind: "busy" };
      throw error;
    }
  }
}

function requestOf(sandbox: SandboxRow, runs: boolean): PlaceRequest {
  return {
    sandboxId: sandbox.id,
    teamId: sandbox.team_id,
    count: runs ? 1 : 0, // a saved one takes disk only
    vcpus: sandbox.vcpus,
    memoryMib: sandbox.memory_mib,
    diskMib: sandbox.disk_size_mib,
    tags: sandbox.host_tags,
    isQuotaFree: true,
  };
}

/** As far as can be told before it is tried; the destination looks at the image itself. */
function isSameMachine(one: HostInfo, other: HostInfo): boolean {
  if (one.memory_fingerprint !== "" && other.memory_fingerprint !== "") return one.memory_fingerprint === other.memory_fingerprint;
  return one.arch === other.arch && one.vmm === other.vmm && one.vmm_version === other.vmm_version && one.accelerator === other.accelerator;
}
