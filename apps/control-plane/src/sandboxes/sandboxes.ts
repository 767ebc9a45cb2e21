import {
  PlatformError,
  type CreateSandboxBody,
  type ForkSandboxBody,
  type ListSandboxesQuery,
  type Metrics,
  type MetricsRange,
} from "@roost/contract";
import { second, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import { listSandboxes, requestDelete, type ObservedSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs } from "../hosts/host-link.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { Creates, type ForkedChild } from "./creates.ts";
import { Lifecycle } from "./lifecycle.ts";
import { decodeCursor, encodeCursor } from "./list-cursor.ts";
import { SandboxRecords } from "./records.ts";
import { requireAllowed, useOf } from "./require-state.ts";

/** Longest wait in `ms` for a host's newest word on a sandbox before the record is shown as it is */
const freshenTimeoutMs = 2 * second;

export interface SandboxPage {
  readonly sandboxes: readonly SandboxRow[];
  readonly nextCursor: string | null;
}

/**
 * What can be done with sandboxes. The record comes first, the host acts, and the host's word is then the record:
 * a state is written only as a host reported it (or when a host turned out to know nothing).
 */
export class Sandboxes {
  readonly records: SandboxRecords;
  readonly lifecycle: Lifecycle;
  readonly #database: Database;
  readonly #hosts: Hosts;
  readonly #log: Logger;
  readonly #creates: Creates;

  constructor(deps: {
    database: Database;
    hosts: Hosts;
    log: Logger;
    onEnded: (sandboxId: string) => void;
    onResumed?: (row: SandboxRow) => void;
  }) {
    const { database, hosts, log } = deps;
    this.#database = database;
    this.#hosts = hosts;
    this.#log = log;
    this.records = new SandboxRecords(deps);
    this.lifecycle = new Lifecycle({ records: this.records, hosts, log });
    this.#creates = new Creates({ database, records: this.records, hosts, log });
  }

  get #db() {
    return this.#database.db;
  }

  isCreating(sandboxId: string): boolean {
    return this.#creates.isInFlight(sandboxId);
  }

  /** Takes no new sandboxes from now on. */
  drain(): void {
    this.#creates.drain();
  }

  async observe(observed: ObservedSandbox): Promise<void> {
    await this.records.observe(observed);
  }

  async observeRemoved(sandboxId: string): Promise<void> {
    await this.records.observeRemoved(sandboxId);
  }

  async create(body: CreateSandboxBody, signal: AbortSignal): Promise<SandboxRow> {
    return this.#creates.create(body, signal);
  }

  async fork(id: string, body: ForkSandboxBody, signal: AbortSignal): Promise<ForkedChild[]> {
    return this.#creates.fork(id, body, signal);
  }

  async get(id: string): Promise<SandboxRow> {
    return this.records.get(id);
  }

  /** The sandbox with its host's newest word, where that can be had quickly. */
  async getFresh(id: string): Promise<SandboxRow> {
    const row = await this.get(id);
    if (row.state !== "running") return row;
    try {
      const observed = await this.#hosts.get(row.host_id).getSandbox(id, freshenTimeoutMs);
      if (observed === undefined) return row; // the reconciler decides what that means
      if (observed.generation <= row.generation) return { ...row, time_last_active: observed.timeLastActive };
      await this.observe(observed);
      return { ...(await this.get(id)), time_last_active: observed.timeLastActive };
    } catch (error) {
      this.#log.debug({ err: error, sandboxId: id }, "showing the record: the host did not answer");
      return row;
    }
  }

  /** A sandbox whose guest can be talked to, resumed for that if it may be; or the error a user gets who wants to use it. */
  async getUsable(id: string): Promise<SandboxRow> {
    return this.lifecycle.usable(id);
  }

  /** A running sandbox, or the error a user gets who asks what only a running one can be asked. */
  async #getRunning(id: string): Promise<SandboxRow> {
    const row = await this.records.get(id);
    requireAllowed(row, useOf(row));
    return row;
  }

  async list(query: ListSandboxesQuery): Promise<SandboxPage> {
    const metadata = query.metadata?.map((pair) => [pair.slice(0, pair.indexOf("=")), pair.slice(pair.indexOf("=") + 1)] as const);
    const rows = await listSandboxes(this.#db, {
      ...(query.state === undefined ? {} : { states: query.state }),
      ...(query.template === undefined ? {} : { template: query.template }),
      ...(metadata === undefined ? {} : { metadata: Object.fromEntries(metadata) }),
      ...(query.cursor === undefined ? {} : { after: decodeCursor(query.cursor) }),
      limit: query.limit + 1,
    });
    const sandboxes = rows.slice(0, query.limit);
    const last = sandboxes.at(-1);
    const hasMore = rows.length > query.limit && last !== undefined;
    return { sandboxes, nextCursor: hasMore ? encodeCursor({ timeCreated: last.time_created, id: last.id }) : null };
  }

  /** Ends a sandbox. A create in flight is aborted. Ending one that has ended succeeds. */
  async delete(id: string): Promise<void> {
    const row = await requestDelete(this.#db, id, new Date());
    if (row === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${id}`);
    if (row.state === "stopped") return;
    await this.records.endOnHost(id, this.#hosts.get(row.host_id));
  }

  async ping(id: string): Promise<void> {
    const row = await this.#getRunning(id);
    const host = this.#hosts.get(row.host_id);
    await host.call(() => host.client.pingSandbox({ sandboxId: id }, { timeoutMs: callTimeoutMs }));
  }

  async setTimeout(id: string, timeoutSec: number): Promise<SandboxRow> {
    const row = await this.#getRunning(id);
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.setTimeout({ sandboxId: id, timeoutSec }, { timeoutMs: callTimeoutMs }));
    await this.observe(observedFrom(answer.sandbox, host.id));
    return this.get(id);
  }

  async metrics(id: string, range: MetricsRange): Promise<Metrics> {
    const row = await this.#getRunning(id);
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.getMetrics({ sandboxId: id, range }, { timeoutMs: callTimeoutMs }));
    return {
      sandbox_id: id,
      range,
      memory_total_bytes: Number(answer.memoryTotalBytes),
      disk_total_bytes: Number(answer.diskTotalBytes),
      points: answer.points.map((point) => ({
        timestamp_unix: Number(point.timeUnixSec),
        cpu_pct: point.cpuPercent,
        mem_bytes: Number(point.memoryBytes),
        disk_bytes: Number(point.diskBytes),
      })),
    };
  }

  /** The newest bytes of the guest's console; those of a failed VM are its last words. */
  async console(id: string, bytesMax: number): Promise<Uint8Array> {
    const row = await this.get(id);
    if (row.state === "stopped") return new Uint8Array();
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.getConsole({ sandboxId: id, bytesMax }, { timeoutMs: callTimeoutMs }));
    return answer.data.subarray(0, bytesMax);
  }
}
