import {
  newSandboxId,
  newToken,
  PlatformError,
  type CreateSandboxBody,
  type ErrorCode,
  type ListSandboxesQuery,
  type Metrics,
  type MetricsRange,
} from "@roost/contract";
import { second, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import {
  applyObserved,
  findSandbox,
  forgetSandbox,
  insertSandbox,
  listSandboxes,
  markCreateFailed,
  markStopped,
  requestDelete,
  type ObservedSandbox,
  type SandboxRow,
} from "../db/sandboxes.ts";
import { callTimeoutMs, createTimeoutMs, destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { decodeCursor, encodeCursor } from "./list-cursor.ts";
import { requireAllowed } from "./require-state.ts";

/** Longest wait in `ms` for a host's newest word on a sandbox before the record is shown as it is */
const freshenTimeoutMs = 2 * second;

/** Failures of a create after which the host is known to keep nothing of the sandbox. */
const nothingRemains: ReadonlySet<ErrorCode> = new Set([
  "template_not_found",
  "capacity_exhausted",
  "shutting_down",
  "request_invalid",
  "sandbox_busy",
  "rate_limited",
]);

export interface SandboxPage {
  readonly sandboxes: readonly SandboxRow[];
  readonly nextCursor: string | null;
}

/**
 * What can be done with sandboxes. The record comes first, the host acts, and the host's word is then the record:
 * a state is written only as a host reported it (or when a host turned out to know nothing).
 */
export class Sandboxes {
  readonly #database: Database;
  readonly #hosts: Hosts;
  readonly #log: Logger;
  readonly #onEnded: (sandboxId: string) => void;
  /** Creates this process waits for. */
  readonly #creating = new Set<string>();
  #isDraining = false;

  constructor(deps: { database: Database; hosts: Hosts; log: Logger; onEnded: (sandboxId: string) => void }) {
    this.#database = deps.database;
    this.#hosts = deps.hosts;
    this.#log = deps.log;
    this.#onEnded = deps.onEnded;
  }

  get #db() {
    return this.#database.db;
  }

  isCreating(sandboxId: string): boolean {
    return this.#creating.has(sandboxId);
  }

  /** Takes no new sandboxes from now on. */
  drain(): void {
    this.#isDraining = true;
  }

  /** Records what a host said; ends what depended on a VM that is no longer running. */
  async observe(observed: ObservedSandbox): Promise<void> {
    const applied = await applyObserved(this.#db, observed, new Date());
    if (applied === "stale") return;
    this.#log.info({ sandboxId: observed.id, state: observed.state, generation: observed.generation, applied }, "sandbox state");
    if (observed.state !== "running") this.#onEnded(observed.id);
  }

  /** A host no longer has this sandbox, after it ended. */
  async observeRemoved(sandboxId: string): Promise<void> {
    if (await markStopped(this.#db, sandboxId, "deleted", new Date())) this.#log.info({ sandboxId, state: "stopped" }, "sandbox state");
    this.#onEnded(sandboxId);
  }

  /**
   * Creates a sandbox and answers when its first command can run. When `signal` aborts (the caller is gone, so nobody
   * would learn the id) the create is undone.
   */
  async create(body: CreateSandboxBody, signal: AbortSignal): Promise<SandboxRow> {
    if (this.#isDraining) throw new PlatformError("shutting_down", "the platform is shutting down", { retryAfterSec: 5 });
    const { host, template } = await this.#hosts.place(body.template);
    const id = newSandboxId();
    const accessToken = newToken();
    const log = this.#log.child({ sandboxId: id, hostId: host.id });
    this.#creating.add(id);
    const undo = () => {
      log.info("the caller of create is gone; undoing it");
      this.delete(id).catch((error: unknown) => log.warn({ err: error }, "could not undo a create; the reconciler will"));
    };
    try {
      await insertSandbox(this.#db, {
        id,
        hostId: host.id,
        template: body.template,
        vcpus: body.vcpus,
        memoryMib: body.memory_mb,
        diskSizeMib: template.disk_size_mib,
        timeoutSec: body.timeout_sec,
        accessToken,
        metadata: body.metadata,
        timeCreated: new Date(),
      });
      signal.addEventListener("abort", undo, { once: true });
      if (signal.aborted) undo();
      const spec = {
        sandboxId: id,
        template: body.template,
        vcpus: body.vcpus,
        memoryMib: body.memory_mb,
        diskSizeMib: template.disk_size_mib,
        timeoutSec: body.timeout_sec,
        envs: body.envs,
        accessToken,
      };
      const answer = await host.call(() => host.client.createSandbox({ spec }, { timeoutMs: createTimeoutMs }));
      await this.observe(observedFrom(answer.sandbox, host.id));
    } catch (error) {
      throw await this.#createFailed(id, host, error, log);
    } finally {
      signal.removeEventListener("abort", undo);
      this.#creating.delete(id);
    }
    const row = await this.get(id);
    if (row.time_delete_requested !== null) {
      // The delete may have reached the host before the create did, and found nothing to end.
      await this.#endOnHost(id, host);
      throw new PlatformError("create_aborted", `sandbox ${id} was deleted while it was being created`);
    }
    return row;
  }

  /** Leaves the record of a failed create as the host knows it, and answers what to throw. */
  async #createFailed(id: string, host: HostLink, error: unknown, log: Logger): Promise<unknown> {
    if (!(error instanceof PlatformError)) return error;
    log.warn({ err: error }, "create failed");
    const now = new Date();
    if (error.code === "create_aborted") {
      await markStopped(this.#db, id, "deleted", now);
      return error;
    }
    if (nothingRemains.has(error.code)) {
      await forgetSandbox(this.#db, id);
      return error;
    }
    try {
      const known = await host.getSandbox(id);
      if (known !== undefined) await this.observe(known);
      // Whether the host got the request at all may be unknown: what it makes of it after all is ended by the reconciler.
      if (known?.state !== "failed") await requestDelete(this.#db, id, now);
    } catch {
      await requestDelete(this.#db, id, now);
    }
    await markCreateFailed(this.#db, id, error.message, now);
    return error;
  }

  async get(id: string): Promise<SandboxRow> {
    const row = await findSandbox(this.#db, id);
    if (row === undefined) throw new PlatformError("sandbox_not_found", `there is no sandbox ${id}`);
    return row;
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

  /** A running sandbox, or the error a user gets who wants to use it. */
  async getUsable(id: string): Promise<SandboxRow> {
    const row = await this.get(id);
    requireAllowed(row, "use");
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
    await this.#endOnHost(id, this.#hosts.get(row.host_id));
  }

  async #endOnHost(id: string, host: HostLink): Promise<void> {
    await host.call(() => host.client.destroySandbox({ sandboxId: id }, { timeoutMs: destroyTimeoutMs }));
    if (await markStopped(this.#db, id, "deleted", new Date())) this.#log.info({ sandboxId: id, state: "stopped" }, "sandbox state");
    this.#onEnded(id);
  }

  async ping(id: string): Promise<void> {
    const row = await this.getUsable(id);
    const host = this.#hosts.get(row.host_id);
    await host.call(() => host.client.pingSandbox({ sandboxId: id }, { timeoutMs: callTimeoutMs }));
  }

  async setTimeout(id: string, timeoutSec: number): Promise<SandboxRow> {
    const row = await this.getUsable(id);
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.setTimeout({ sandboxId: id, timeoutSec }, { timeoutMs: callTimeoutMs }));
    await this.observe(observedFrom(answer.sandbox, host.id));
    return this.get(id);
  }

  async metrics(id: string, range: MetricsRange): Promise<Metrics> {
    const row = await this.getUsable(id);
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
