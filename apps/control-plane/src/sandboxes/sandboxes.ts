import {
  PlatformError,
  type CreateSandboxBody,
  type ErrorCode,
  type ForkSandboxBody,
  type ListSandboxesQuery,
  type Metrics,
  type MetricsRange,
  type Sandbox,
} from "@roost/contract";
import { second, withDeadline, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { NewEvent } from "../db/events.ts";
import { claimDelete } from "../db/expiry.ts";
import { countPresent, listPresent, listSandboxes, type PresentFilter, type PresentPageQuery } from "../db/list-sandboxes.ts";
import type { OwnedId } from "../db/owned-id.ts";
import { requestDelete, requestDeleteOfAnyTeam, type ObservedSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs } from "../hosts/host-link.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { Destinations } from "../moves/destinations.ts";
import { Moves, type MovesDependencies } from "../moves/moves.ts";
import { Operations, type OperationRequest } from "../operations/operations.ts";
import { Recovery } from "../operations/recovery.ts";
import { cpuOvercommitDefault, Placements } from "../placement/placements.ts";
import { askOfNewest } from "./ask-of-newest.ts";
import { Connects } from "./connects.ts";
import { Creates, type BuildSandboxSpec, type CreateOptions, type CreatesDependencies } from "./creates.ts";
import { Expiry } from "./expiry.ts";
import { Forks, type ForkedChild, type ForkOptions } from "./forks.ts";
import { Lifecycle } from "./lifecycle.ts";
import { decodeCursor, encodeCursor } from "./list-cursor.ts";
import { metricsOver, type StoredMetrics } from "./metric-history.ts";
import { Networks } from "./network.ts";
import { NetworkSecrets } from "./network-secrets.ts";
import { Newcomers } from "./newcomers.ts";
import { present, presenceOf } from "./present.ts";
import { SandboxRecords, type SandboxRecordsDependencies } from "./records.ts";
import { requireAllowed, useOf } from "./require-state.ts";
import { viewSandbox } from "./sandbox-view.ts";

/** Longest wait in `ms` for a host's newest word on a sandbox before the record is shown as it is */
const freshenTimeoutMs = 2 * second;
/** Longest wait in `ms` for a host to end a sandbox that is gone for its users anyway */
const killTimeoutMs = 10 * second;

export interface SandboxPage {
  readonly sandboxes: readonly SandboxRow[];
  readonly nextCursor: string | null;
}

/** Running and paused ones, in the order they were started. */
export interface PresentPage {
  readonly sandboxes: readonly SandboxRow[];
  /** Where the next page starts; undefined on the last one */
  readonly next: PresentPageQuery["after"];
}

export type CreateResult = "ok" | ErrorCode;

export interface SandboxesDependencies {
  readonly database: Database;
  readonly hosts: Hosts;
  readonly log: Logger;
  readonly onEnded: (sandboxId: string) => void;
  readonly onChanged?: (sandboxId: string) => void;
  /** A host is about to pause a sandbox, and waits for what is under way to its ports */
  readonly onPausing?: (sandboxId: string) => void;
  readonly onResumed?: (row: SandboxRow) => void;
  /** What the control plane itself does to sandboxes */
  readonly onEvent?: (event: NewEvent) => Promise<void>;
  /** Told how each create ended, for metrics */
  readonly onCreate?: (result: CreateResult, durationMs: number) => void;
  readonly onBeforeEnd?: NonNullable<SandboxRecordsDependencies["onBeforeEnd"]>;
  /** What is stored of their metrics; default: nothing */
  readonly storedMetrics?: StoredMetrics;
  readonly resolveTemplate?: CreatesDependencies["resolveTemplate"];
  readonly startCommand?: CreatesDependencies["startCommand"];
  /** Default: its own */
  readonly operations?: Operations;
  /** The installation's, which secrets in network policies are sealed with; without it no policy may have any */
  readonly secretKey?: string;
  readonly cpuOvercommit?: number;
  /** How long who finds no room waits for it, in `ms` */
  readonly roomWaitMs?: number;
  /** For tests: see `MoveStep` */
  readonly onMoveStep?: MovesDependencies["onStep"];
  readonly now?: () => Date;
}

/**
 * What can be done with sandboxes. The record comes first, the host acts, and the host's word is then the record:
 * a state is written only as a host reported it (or when a host turned out to know nothing).
 */
export class Sandboxes {
  readonly records: SandboxRecords;
  readonly lifecycle: Lifecycle;
  readonly connects: Connects;
  readonly expiry: Expiry;
  readonly networks: Networks;
  readonly operations: Operations;
  readonly recovery: Recovery;
  readonly moves: Moves;
  readonly #database: Database;
  readonly #hosts: Hosts;
  readonly #log: Logger;
  readonly #newcomers: Newcomers;
  readonly #creates: Creates;
  readonly #forks: Forks;
  readonly #storedMetrics: StoredMetrics;
  readonly #onCreate: (result: CreateResult, durationMs: number) => void;

  constructor(deps: SandboxesDependencies) {
    const { database, hosts, log } = deps;
    this.#database = database;
    this.#hosts = hosts;
    this.#log = log;
    this.#storedMetrics = deps.storedMetrics ?? (async () => []);
    this.#onCreate = deps.onCreate ?? (() => undefined);
    const onEnded = (sandboxId: string) => {
      placements.roomMade();
      this.expiry.savedOrEnded(sandboxId);
      deps.onEnded(sandboxId);
    };
    const records = new SandboxRecords({ ...deps, onEnded, onExpiry: (end) => this.expiry.poke(end) });
    this.records = records;
    const now = () => records.now();
    const operations = deps.operations ?? new Operations({ database, log, now });
    this.operations = operations;
    this.recovery = new Recovery({ database, operations, records, hosts, log });
    const { cpuOvercommit = cpuOvercommitDefault, roomWaitMs } = deps;
    const placements = new Placements({ database, hosts, cpuOvercommit, now, ...(roomWaitMs === undefined ? {} : { roomWaitMs }) });
    this.lifecycle = new Lifecycle({ database, records, hosts, operations, placements, log });
    const secrets = new NetworkSecrets(deps.secretKey);
    const destinations = new Destinations({ database, hosts, placements });
    this.moves = new Moves({
      database,
      hosts,
      records,
      lifecycle: this.lifecycle,
      destinations,
      secrets,
      log,
      now,
      ...(deps.onMoveStep === undefined ? {} : { onStep: deps.onMoveStep }),
    });
    this.connects = new Connects({ database, records, lifecycle: this.lifecycle });
    const onEvent = deps.onEvent ?? (async () => undefined);
    this.expiry = new Expiry({ database, records, lifecycle: this.lifecycle, hosts, log, onEvent });
    this.networks = new Networks({ database, records, hosts, secrets });
    const newcomers = new Newcomers({ database, records, hosts });
    this.#newcomers = newcomers;
    this.#forks = new Forks({ secrets, records, hosts, newcomers, operations, placements, log });
    this.#creates = new Creates({
      secrets,
      records,
      hosts,
      newcomers,
      operations,
      placements,
      log,
      resolveTemplate: deps.resolveTemplate ?? (async () => undefined),
      startCommand: deps.startCommand ?? (async () => undefined),
    });
  }

  get #db() {
    return this.#database.db;
  }

  isCreating(sandboxId: string): boolean {
    return this.#newcomers.isInFlight(sandboxId);
  }

  /** Takes no new sandboxes from now on. */
  drain(): void {
    this.#newcomers.drain();
  }

  async observe(observed: ObservedSandbox): Promise<void> {
    await this.records.observe(observed);
  }

  async observeRemoved(sandboxId: string, hostId: string): Promise<void> {
    await this.records.observeRemoved(sandboxId, hostId);
  }

  async create(
    teamId: string,
    body: CreateSandboxBody,
    signal: AbortSignal,
    options?: CreateOptions,
    asked?: OperationRequest,
  ): Promise<SandboxRow> {
    const began = performance.now();
    const tell = (result: CreateResult) => this.#onCreate(result, performance.now() - began);
    try {
      const row = await this.#creates.create(teamId, body, signal, options, asked);
      tell("ok");
      return row;
    } catch (error) {
      tell(error instanceof PlatformError ? error.code : "internal");
      throw error;
    }
  }

  /** A sandbox that users do not see. */
  async createForBuild(spec: BuildSandboxSpec, signal: AbortSignal): Promise<SandboxRow> {
    return this.#creates.createForBuild(spec, signal);
  }

  async fork(
    owned: OwnedId,
    body: ForkSandboxBody,
    signal: AbortSignal,
    options?: ForkOptions,
    asked?: OperationRequest,
  ): Promise<ForkedChild[]> {
    return this.#forks.fork(owned, body, signal, options, asked);
  }

  async get(owned: OwnedId): Promise<SandboxRow> {
    return this.records.get(owned);
  }

  /** The sandbox with its host's newest word, where that can be had quickly. */
  async getFresh(owned: OwnedId): Promise<SandboxRow> {
    const row = await this.get(owned);
    if (row.state !== "running") return row;
    try {
      const observed = await this.#hosts.get(row.host_id).getSandbox(row.id, freshenTimeoutMs);
      if (observed === undefined) return row; // the reconciler decides what that means
      if (observed.generation <= row.generation) return { ...row, time_last_active: observed.timeLastActive };
      await this.observe(observed);
      return { ...(await this.get(row)), time_last_active: observed.timeLastActive };
    } catch (error) {
      this.#log.debug({ err: error, sandboxId: row.id }, "showing the record: the host did not answer");
      return row;
    }
  }

  /** A sandbox whose guest can be talked to, resumed for that if it may be; or the error a user gets who wants to use it. */
  async getUsable(owned: OwnedId): Promise<SandboxRow> {
    return this.lifecycle.usable(owned);
  }

  /** A running sandbox, or the error a user gets who asks what only a running one can be asked. */
  async #getRunning(owned: OwnedId): Promise<SandboxRow> {
    const row = await this.records.get(owned);
    requireAllowed(row, useOf(row));
    return row;
  }

  /** A record as users see it. */
  view(row: SandboxRow): Sandbox {
    return viewSandbox(row, this.#hosts.seenState(row.host_id));
  }

  async list(teamId: string, query: ListSandboxesQuery): Promise<SandboxPage> {
    const metadata = query.metadata?.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)] as const);
    const rows = await listSandboxes(this.#db, {
      teamId,
      ...(query.state === undefined ? {} : { states: query.state }),
      ...(query.template === undefined ? {} : { template: query.template }),
      ...(metadata === undefined ? {} : { metadata: Object.fromEntries(metadata) }),
      ...(query.cursor === undefined ? {} : { after: decodeCursor(query.cursor) }),
      limit: query.limit + 1,
    });
    const sandboxes = rows.slice(0, query.limit);
    const last = sandboxes.at(-1);
    const hasMore = rows.length > query.limit && last !== undefined;
    return {
      sandboxes: sandboxes.map((row) => present(row, this.records.now())),
      nextCursor: hasMore ? encodeCursor({ timeCreated: last.time_created, id: last.id }) : null,
    };
  }

  /** What runs or is paused, by when it was started. */
  async listPresent(query: PresentPageQuery): Promise<PresentPage> {
    const now = this.records.now();
    const rows = await listPresent(this.#db, { ...query, limit: query.limit + 1 }, now);
    const sandboxes = rows.slice(0, query.limit).map((row) => present(row, now));
    const last = sandboxes.at(-1);
    const hasMore = rows.length > query.limit && last?.time_started;
    return { sandboxes, next: hasMore ? { timeStarted: hasMore, id: last.id } : undefined };
  }

  /** How many run of those that match. */
  async countRunning(filter: Omit<PresentFilter, "presence">): Promise<number> {
    return countPresent(this.#db, { ...filter, presence: ["running"] }, this.records.now());
  }

  /** Pauses a sandbox that runs; `sandbox_wrong_state` when it is paused already. */
  async pauseRunning(owned: OwnedId, options: { readonly memory: boolean }): Promise<SandboxRow> {
    if (presenceOf(await this.connects.present(owned)) !== "running") {
      throw new PlatformError("sandbox_wrong_state", `sandbox ${owned.id} is paused already`);
    }
    return this.lifecycle.pauseRunning(owned, options);
  }

  /** Ends a sandbox. A create in flight is aborted. Ending one that has ended succeeds. */
  async delete(owned: OwnedId): Promise<void> {
    const row = await requestDelete(this.#db, owned, this.records.now());
    if (row === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${owned.id}`);
    await this.#endOnHost(row);
  }

  /** Ends a sandbox that works for a build, if it is there. */
  async deleteForBuild(id: string): Promise<void> {
    const row = await requestDeleteOfAnyTeam(this.#db, id, this.records.now());
    if (row !== undefined) await this.#endOnHost(row);
  }

  async #endOnHost(row: SandboxRow): Promise<void> {
    if (row.state === "stopped") return;
    this.records.changedHere(row.id);
    await this.records.endOnHost(row.id, this.#hosts.get(row.host_id));
  }

  /**
   * Ends a sandbox that has not been ended: it is gone at once for everybody. Answers when the host has ended it, too, or when
   * that takes long: then the host is told again until it is done.
   */
  async kill(owned: OwnedId): Promise<void> {
    const { id } = owned;
    const row = await claimDelete(this.#db, owned, this.records.now());
    if (row === undefined) throw new PlatformError("sandbox_not_found", `sandbox ${id} was not found: it has ended, or never was`);
    this.records.endConnections(id);
    this.records.changedHere(id);
    const ended = this.records.endOnHost(id, this.#hosts.get(row.host_id));
    await withDeadline("the end of the sandbox on its host", killTimeoutMs, ended).catch((error: unknown) =>
      this.#log.warn({ err: error, sandboxId: id }, "a killed sandbox is still on its host; the reconciler ends it"),
    );
  }

  async ping(owned: OwnedId): Promise<void> {
    const row = await this.#getRunning(owned);
    const host = this.#hosts.get(row.host_id);
    await host.call(() => host.client.pingSandbox({ sandboxId: row.id }, { timeoutMs: callTimeoutMs }));
  }

  async setTimeout(owned: OwnedId, timeoutSec: number): Promise<SandboxRow> {
    const row = await this.#getRunning(owned);
    const host = this.#hosts.get(row.host_id);
    const requireWanted = (now: SandboxRow) => requireAllowed(now, useOf(now));
    const answer = await askOfNewest({ records: this.records, host, row, requireWanted }, async (revision) =>
      host.client.setTimeout({ sandboxId: row.id, timeoutSec, revision }, { timeoutMs: callTimeoutMs }),
    );
    await this.observe(observedFrom(answer.sandbox, host.id));
    return this.get(row);
  }

  /** What it used over time; also of one that is paused, out of reach or ended. */
  async metrics(owned: OwnedId, range: MetricsRange): Promise<Metrics> {
    const row = await this.get(owned);
    const samples = await metricsOver(this.#hosts, this.#storedMetrics, row, range);
    const newest = samples.at(-1);
    return {
      sandbox_id: row.id,
      range,
      memory_total_bytes: newest?.memoryTotalBytes ?? 0,
      disk_total_bytes: newest?.diskTotalBytes ?? 0,
      points: samples.map((sample) => ({
        timestamp_unix: sample.timeUnixSec,
        cpu_pct: sample.cpuPercent,
        mem_bytes: sample.memoryBytes,
        disk_bytes: sample.diskBytes,
      })),
    };
  }

  /** The newest bytes of the guest's console; those of a failed VM are its last words. */
  async console(owned: OwnedId, bytesMax: number): Promise<Uint8Array> {
    const row = await this.get(owned);
    if (row.state === "stopped") return new Uint8Array();
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.getConsole({ sandboxId: row.id, bytesMax }, { timeoutMs: callTimeoutMs }));
    return answer.data.subarray(0, bytesMax);
  }
}
