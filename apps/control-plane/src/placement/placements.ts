import { hostTakesSandboxes, PlatformError, type TeamQuota } from "@roost/contract";
import { second, Turns } from "@roost/kit";
import type { Transaction } from "kysely";

import type { Database } from "../db/database.ts";
import { ensureHost } from "../db/hosts.ts";
import {
  holdToRun,
  listTaken,
  lockHost,
  lockTeam,
  nothingTaken,
  quotaOfTeam,
  takenOfHost,
  takenOfTeam,
  type Taken,
} from "../db/reservations.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import type { Tables } from "../db/schema.ts";
import type { HostLink } from "../hosts/host-link.ts";
import { isReachable, unknownStanding } from "../hosts/host-standing.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { HostTemplate } from "../hosts/observed.ts";
import { choose, whyNoRoom, type Choice, type HostCapacity, type PlacementHost, type PlacementRequest, type Unable } from "./choose.ts";
import { checkQuota } from "./quota.ts";
import { Refusals } from "./refusals.ts";
import { Room } from "./room.ts";

/** How old what is known of reservations may be in `ms` when hosts are put in order; where it counts it is read anew */
const takenAgeMs = 1 * second;
/** How old what a host said of its size may be in `ms` */
const capacityAgeMs = 60 * second;
/**
 * How often a core may be given away unless the operator says otherwise. Sandboxes mostly wait; memory is full long before.
 */
export const cpuOvercommitDefault = 64;
/**
 * Reservations at once in one control plane. They wait for each other at the hosts' rows anyway, and each holds a connection to the database meanwhile: more would keep everybody else from theirs.
 */
const reservationsAtOnce = 4;
/** `Retry-After` when everything is full in `s`: sandboxes end all the time */
const retryAfterSec = 10;

/** A host that has what a sandbox starts from. */
export interface HolderOfTemplate {
  readonly host: HostLink;
  readonly template: Pick<HostTemplate, "has_memory">;
}

export interface PlaceRequest extends PlacementRequest {
  readonly diskMib: number;
  /** Whether it counts against the team's quota: sandboxes of builds do not */
  readonly isQuotaFree: boolean;
}

export interface PlacementsDependencies {
  readonly database: Database;
  readonly hosts: Hosts;
  /** How often a host's cores may be given away */
  readonly cpuOvercommit: number;
  /** How long who finds no room waits for it, in `ms`; default: ./room.ts says */
  readonly roomWaitMs?: number;
  readonly now: () => Date;
}

/** Undoes a transaction in which there turned out to be no room. */
class NoRoom extends Error {
  override readonly name = "NoRoom";
}

/**
 * Gives sandboxes room on hosts. What is reserved is in the database (migration 0009): whoever reserves records the sandbox, which reserves by itself, locks the host's row, sums up,
 * and takes everything back where that is too much. So no two can have the same room, however many control planes there are. A host still has the last word.
 */
export class Placements {
  readonly #deps: PlacementsDependencies;
  readonly #room: Room;
  readonly #turns = new Turns(reservationsAtOnce);
  readonly #refusals = new Refusals();
  #known: { readonly taken: Map<string, Taken>; readonly timeMs: number } | undefined;

  constructor(deps: PlacementsDependencies) {
    this.#deps = deps;
    this.#room = new Room(deps.roomWaitMs);
  }

  /** A sandbox holds less than it did: who waits for room looks again. */
  roomMade(): void {
    this.#known = undefined;
    this.#room.made();
  }

  /**
   * Finds the best of the hosts that has room, and records with `record` what is to be there, all or nothing. Waits a while for room. Throws `capacity_exhausted`
   * when there is none, `quota_exceeded`, and what `record` throws.
   */
  async place<Holder extends HolderOfTemplate>(
    request: PlaceRequest,
    holders: readonly Holder[],
    record: (transaction: Transaction<Tables>, holder: Holder) => Promise<void>,
    signal?: AbortSignal,
  ): Promise<{ readonly holder: Holder }> {
    let refusal: PlatformError | undefined;
    const attempt = async () => {
      const choice = await this.#choose(request, holders);
      const reserved = await this.#firstWithRoom(request, choice, holders, record);
      if (reserved !== undefined) return reserved;
      refusal = refusalOf(choice, request);
      const mayHelp = choice.able.length > 0 || [...choice.unable.values()].includes("room");
      if (!mayHelp) throw refusal;
      return undefined;
    };
    const placed = await this.#room.until(async () => this.#turns.take(attempt), signal);
    if (placed === undefined) throw refusal ?? noRoom(request, "it waited too long");
    return placed;
  }

  /**
   * For a sandbox that is recorded on a host which then refused it: takes the best of the others that has room, and has `move` move the record there, and with it what it reserves, all or nothing. Undefined when
   * there is none now: nobody waits for room, because what the host answered is an answer, too. Throws what `move` throws.
   */
  async placeElsewhere<Holder extends HolderOfTemplate>(
    request: PlaceRequest,
    holders: readonly Holder[],
    move: (transaction: Transaction<Tables>, holder: Holder) => Promise<void>,
  ): Promise<Holder | undefined> {
    if (holders.length === 0) return undefined;
    const placed = await this.#turns.take(async () =>
      this.#firstWithRoom({ ...request, isQuotaFree: true }, await this.#choose(request, holders), holders, move),
    ); // its quota was checked when it was recorded, and it is counted
    return placed?.holder;
  }

  /** A host did not take a sandbox that was reserved there: others are tried first for a moment, and it is asked anew how large it is. */
  refusedBy(host: HostLink): void {
    this.#refusals.note(host.id);
    host.forgetDescription();
    this.#known = undefined;
  }

  async #firstWithRoom<Holder extends HolderOfTemplate>(
    request: PlaceRequest,
    choice: Choice,
    holders: readonly Holder[],
    record: (transaction: Transaction<Tables>, holder: Holder) => Promise<void>,
  ): Promise<{ readonly holder: Holder } | undefined> {
    for (const { id, capacity } of choice.able) {
      const holder = holders.find(({ host }) => host.id === id);
      if (holder !== undefined && (await this.#reserve(request, capacity, holder, record))) return { holder };
    }
    return undefined;
  }

  async #choose(request: PlaceRequest, holders: readonly HolderOfTemplate[]): Promise<Choice> {
    const known = await this.#look();
    const views = await Promise.all(
      holders.map(async ({ host, template }): Promise<PlacementHost> => {
        const standing = this.#deps.hosts.standing(host.id);
        const info = await host.describe(capacityAgeMs).then(
          (description) => description.info,
          () => undefined, // the others are asked all the same
        );
        return {
          id: host.id,
          state: standing.state,
          isReachable: info !== undefined && isReachable(standing, this.#deps.now()),
          teamId: standing.teamId,
          tags: info === undefined ? standing.tags : [...standing.tags, `accelerator=${info.accelerator}`, `arch=${info.arch}`],
          capacity: info === undefined ? noCapacity : this.#capacityOf(info),
          taken: known.taken.get(host.id) ?? nothingTaken,
          holds: template.has_memory ? "memory" : "disk",
          hasRefused: this.#refusals.isRecent(host.id),
        };
      }),
    );
    return choose(views, request);
  }

  #capacityOf(info: Awaited<ReturnType<HostLink["describe"]>>["info"]): HostCapacity {
    return {
      vcpus: info.cpu_count * this.#deps.cpuOvercommit,
      memoryMib: info.memory_mb,
      sandboxCount: info.sandbox_count_max,
      diskMib: info.disk_mb,
      diskFreeMib: info.disk_free_mb,
    };
  }

  async #look() {
    const known = this.#known;
    if (known !== undefined && performance.now() - known.timeMs <= takenAgeMs) return known;
    const { db } = this.#deps.database;
    return (this.#known = { taken: new Map(await listTaken(db)), timeMs: performance.now() });
  }

  /** False: there is no room after all. */
  async #reserve<Holder extends HolderOfTemplate>(
    request: PlaceRequest,
    capacity: HostCapacity,
    holder: Holder,
    record: (transaction: Transaction<Tables>, holder: Holder) => Promise<void>,
  ): Promise<boolean> {
    const hostId = holder.host.id;
    const { db } = this.#deps.database;
    // One that is part of this process may not be recorded yet
    if (this.#deps.hosts.standing(hostId) === unknownStanding) await ensureHost(db, hostId, this.#deps.now());
    try {
      await db.transaction().execute(async (transaction) => {
        const quota = request.isQuotaFree ? undefined : await this.#lockQuota(transaction, request.teamId);
        await record(transaction, holder);
        if (quota !== undefined) checkQuota(quota, await takenOfTeam(transaction, request.teamId), request);
        const host = await lockHost(transaction, hostId);
        const isOpen = host !== undefined && hostTakesSandboxes(host.state) && (host.teamId === null || host.teamId === request.teamId);
        if (!isOpen || whyNoRoom(capacity, await takenOfHost(transaction, hostId), nothingMore) !== undefined) throw new NoRoom("no room");
      });
      this.#count(hostId, request);
      return true;
    } catch (error) {
      this.#known = undefined;
      if (error instanceof NoRoom) return false;
      throw error;
    }
  }

  /** So that what is placed in the next moment knows of it. */
  #count(hostId: string, { count, vcpus, memoryMib }: PlaceRequest): void {
    const taken = this.#known?.taken.get(hostId) ?? nothingTaken;
    this.#known?.taken.set(hostId, {
      ...taken,
      running: taken.running + count,
      vcpus: taken.vcpus + count * vcpus,
      memoryMib: taken.memoryMib + count * memoryMib,
    });
  }

  /** Undefined: the team has no quota that is about sandboxes. */
  async #lockQuota(transaction: Transaction<Tables>, teamId: string): Promise<Partial<TeamQuota> | undefined> {
    const { sandboxes, vcpus, memory_mb: memory, disk_mb: disk } = await quotaOfTeam(transaction, teamId);
    const isLimited = [sandboxes, vcpus, memory, disk].some((limit) => typeof limit === "number");
    return isLimited ? lockTeam(transaction, teamId) : undefined;
  }

  /**
   * Has a saved sandbox hold all that it needs to run, until `operationId` ends; `record` records that operation in the same transaction. Waits for room like `place`.
   */
  async holdToRun(
    sandbox: SandboxRow,
    host: HostLink,
    operationId: string,
    record: (transaction: Transaction<Tables>) => Promise<void>,
  ): Promise<void> {
    const request = { count: 1, vcpus: sandbox.vcpus, memoryMib: sandbox.memory_mib, diskMib: sandbox.disk_size_mib };
    const capacity = this.#capacityOf((await host.describe(capacityAgeMs)).info);
    if (whyNoRoom(capacity, nothingTaken, request) === "too-large") throw noRoom(request, "too-large");
    const attempt = async () => {
      try {
        return await this.#deps.database.db.transaction().execute(async (transaction) => {
          await record(transaction);
          const quota = sandbox.for_build_id === null ? await this.#lockQuota(transaction, sandbox.team_id) : undefined;
          const held = await holdToRun(transaction, sandbox.id, operationId);
          if (held?.heldLess !== true) return true;
          if (quota !== undefined) checkQuota(quota, await takenOfTeam(transaction, sandbox.team_id), { ...request, isThere: true });
          await lockHost(transaction, host.id);
          if (whyNoRoom(capacity, await takenOfHost(transaction, host.id), nothingMore) !== undefined) throw new NoRoom("no room");
          return true;
        });
      } catch (error) {
        if (error instanceof NoRoom) return undefined;
        throw error;
      }
    };
    const held = await this.#room.until(async () => this.#turns.take(attempt));
    if (held === undefined) throw noRoom(request, "room");
  }
}

/** Of a host that does not say how large it is */
const noCapacity: HostCapacity = { vcpus: 0, memoryMib: 0, sandboxCount: 0, diskMib: 0, diskFreeMib: 0 };
const nothingMore = { count: 0, vcpus: 0, memoryMib: 0 };

function refusalOf(choice: Choice, request: PlaceRequest): PlatformError {
  const reasons = new Set(choice.unable.values());
  const worst = (["room", "too-large", "tags", "other-team", "not-ready", "unreachable"] as const).find((reason) => reasons.has(reason));
  return noRoom(request, choice.able.length > 0 ? "room" : (worst ?? "unreachable"));
}

const whyNot: Readonly<Record<Unable, string>> = {
  room: "no host has room for it right now; ask for less, end or pause a sandbox, or try again later",
  "too-large": "no host that has its template is that large; ask for less",
  tags: "no host that has its template has these tags",
  "other-team": "the hosts that have its template are other teams'",
  template: "no host has its template",
  "not-ready": "the hosts that have its template take no new sandboxes right now; try again later",
  unreachable: "no host that has its template can be reached right now; try again later",
};

function noRoom(
  { count, vcpus, memoryMib }: Pick<PlaceRequest, "count" | "vcpus" | "memoryMib">,
  reason: Unable | "it waited too long",
): PlatformError {
  const what = `${count === 1 ? "a sandbox" : `${count} sandboxes`} with ${vcpus} vCPU and ${memoryMib} MiB of memory`;
  const why = reason === "it waited too long" ? whyNot.room : whyNot[reason];
  return new PlatformError(reason === "unreachable" ? "host_unreachable" : "capacity_exhausted", `there is no place for ${what}: ${why}`, {
    retryAfterSec,
  });
}
