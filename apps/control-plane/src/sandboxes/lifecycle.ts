import { decide, PlatformError, type ErrorCode, type OperationKind, type SandboxRequest } from "@roost/contract";
import type { Generation } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { second, type Logger } from "@roost/kit";

import type { Database, Db } from "../db/database.ts";
import { extendExpiry } from "../db/expiry.ts";
import { findLeaving, moveWithoutResume } from "../db/moves.ts";
import type { OwnedId } from "../db/owned-id.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { resumesSandboxes } from "../hosts/host-standing.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import { unnamed, type OperationRequest, type Operations } from "../operations/operations.ts";
import type { Placements } from "../placement/placements.ts";
import type { SandboxRecords } from "./records.ts";
import { askOfNewest } from "./ask-of-newest.ts";
import { presenceOf } from "./present.ts";
import { requireAllowed, requireNotEnded, useOf } from "./require-state.ts";

/** Time that a request which resumed a sandbox gives it at least, in `s`: it was not asked for how long */
const wakeExpirySec = 300;
/** Longest wait in `ms` for a snapshot or fork under way to end before a sandbox is paused */
const transitionTimeoutMs = 30 * second;
/** Time between two looks at a sandbox whose change is waited for in `ms`, when the host's watch says nothing */
const lookIntervalMs = 250;

type WireSandbox = Parameters<typeof observedFrom>[0];

export interface PauseOptions {
  readonly memory: boolean;
  /** For the sandbox's log, where nobody asked for it */
  readonly reason?: string;
}

export interface LifecycleDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly operations: Operations;
  readonly placements: Placements;
  readonly log: Logger;
}

/** What is asked of a sandbox's host, and how that is recorded. */
interface Change {
  readonly kind: OperationKind;
  readonly request: SandboxRequest;
  /** Starts its VM: it needs room for that */
  readonly starts?: boolean;
  /** `revision`: what it is based on (../../../../packages/contract/proto/hostagent/v1/hostagent.proto) */
  readonly rpc: (host: HostLink, revision: bigint) => Promise<{ readonly sandbox?: WireSandbox }>;
}

/** Saving sandboxes and starting them again. The host acts and answers with the sandbox; that is then the record. */
export class Lifecycle {
  readonly #database: Database;
  readonly #records: SandboxRecords;
  readonly #hosts: Hosts;
  readonly #operations: Operations;
  readonly #placements: Placements;
  readonly #log: Logger;
  /** Resumes that requests wait for, one per sandbox however many they are */
  readonly #waking = new Map<string, Promise<SandboxRow>>();

  constructor(deps: LifecycleDependencies) {
    this.#database = deps.database;
    this.#records = deps.records;
    this.#hosts = deps.hosts;
    this.#operations = deps.operations;
    this.#placements = deps.placements;
    this.#log = deps.log;
  }

  async pause(owned: OwnedId, { memory, reason = "" }: PauseOptions, asked?: OperationRequest): Promise<SandboxRow> {
    const change: Change = {
      kind: "sandbox.pause",
      request: { kind: "pause" },
      rpc: async (host, revision) =>
        host.client.pauseSandbox({ sandboxId: owned.id, memory, reason, revision }, { timeoutMs: saveTimeoutMs }),
    };
    return this.#change(owned, change, asked);
  }

  /**
   * Pauses a running sandbox, after a snapshot or fork under way has ended; `sandbox_wrong_state` when it is paused already. Time that is
   * up makes no difference: that is why it is paused.
   */
  async pauseRunning(owned: OwnedId, options: PauseOptions): Promise<SandboxRow> {
    const end = performance.now() + transitionTimeoutMs;
    for (;;) {
      const row = await this.#records.recorded(owned);
      const isRunning = row.time_delete_requested === null && presenceOf(row) === "running";
      if (!isRunning) await moveWithoutResume(this.#database.db, row.id);
      if (!isRunning) throw new PlatformError("sandbox_wrong_state", `sandbox ${row.id} is not running: it is ${row.state}`);
      try {
        return await this.pause(row, options);
      } catch (error) {
        if (!mayChange(error) || performance.now() > end) throw error;
        await this.#records.changed(row.id, lookIntervalMs);
      }
    }
  }

  async resume(
    owned: OwnedId,
    options: { readonly memory: boolean; readonly timeoutSec?: number | undefined },
    asked?: OperationRequest,
  ): Promise<SandboxRow> {
    const { memory, timeoutSec } = options;
    const change: Change = {
      kind: "sandbox.resume",
      request: { kind: "resume", memory },
      starts: true,
      rpc: async (host, revision) =>
        host.client.resumeSandbox(
          { sandboxId: owned.id, memory, revision, ...(timeoutSec === undefined ? {} : { timeoutSec }) },
          { timeoutMs: saveTimeoutMs },
        ),
    };
    const row = await this.#change(owned, change, asked);
    this.#records.resumed(row);
    return row;
  }

  async checkpoint(owned: OwnedId, asked?: OperationRequest): Promise<{ readonly row: SandboxRow; readonly generation: Generation }> {
    let generation: Generation | undefined;
    const change: Change = {
      kind: "sandbox.checkpoint",
      request: { kind: "checkpoint" },
      rpc: async (host, revision) => {
        const answer = await host.client.checkpointSandbox({ sandboxId: owned.id, revision }, { timeoutMs: saveTimeoutMs });
        generation = answer.generation;
        return answer;
      },
    };
    const row = await this.#change(owned, change, asked);
    if (generation === undefined) throw new PlatformError("internal", "the sandbox's host did not say which generation it made");
    return { row, generation };
  }

  async rollback(owned: OwnedId, generation: number, asked?: OperationRequest): Promise<SandboxRow> {
    const change: Change = {
      kind: "sandbox.rollback",
      request: { kind: "rollback" },
      starts: true,
      rpc: async (host, revision) => {
        const answer = await host.client.rollbackSandbox({ sandboxId: owned.id, generation, revision }, { timeoutMs: saveTimeoutMs });
        this.#records.endConnections(owned.id);
        return answer;
      },
    };
    const row = await this.#change(owned, change, asked);
    this.#records.resumed(row);
    return row;
  }

  /** Newest first. */
  async generations(owned: OwnedId): Promise<readonly Generation[]> {
    const row = await this.#records.get(owned);
    if (row.state === "stopped") requireAllowed(row, { kind: "rollback" });
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.listGenerations({ sandboxId: row.id }, { timeoutMs: callTimeoutMs }));
    return answer.generations;
  }

  async #change(owned: OwnedId, change: Change, asked: OperationRequest = unnamed(owned.team_id)): Promise<SandboxRow> {
    const row = await this.#records.get(owned);
    requireNotEnded(row, change.request);
    await this.#onHost(row, change, asked);
    return this.#records.get(row);
  }

  /** As an operation: recorded, room found where it is needed, the host asked, and what that answers recorded. */
  async #onHost(seen: SandboxRow, { kind, request, starts = false, rpc }: Change, asked: OperationRequest): Promise<void> {
    const row = starts ? await this.#afterMove(seen) : seen;
    const host = starts ? this.#hosts.getForResume(row.host_id) : this.#hosts.get(row.host_id);
    await this.#operations.run(kind, asked, async (operation) => {
      const begin = async (db: Db) => {
        await operation.begin(db, { subject: { kind: "sandbox", id: row.id } });
        if (kind === "sandbox.pause") await moveWithoutResume(db, row.id);
      };
      if (starts) await this.#placements.holdToRun(row, host, operation.id, begin);
      else await begin(this.#database.db);
      const requireWanted = async (now: SandboxRow) => {
        requireNotEnded(now, request);
        await this.#operations.requireOurs(operation);
      };
      const ask = async (on: HostLink, now: SandboxRow) => {
        const answer = await askOfNewest({ records: this.#records, host: on, row: now, requireWanted }, async (revision) =>
          rpc(on, revision),
        );
        await this.#records.observe(observedFrom(answer.sandbox, on.id));
      };
      try {
        await ask(host, row);
      } catch (error) {
        if (!(error instanceof PlatformError && isOfMove.has(error.code))) throw error;
        const now = await this.#records.ofAnyTeam(row.id);
        if (now.host_id === host.id) throw error;
        await ask(this.#hosts.get(now.host_id), now); // it was moved meanwhile
      }
    });
  }

  /** Whoever wants to start a sandbox that is being moved to another host, or is about to be, waits until it is there. */
  async #afterMove(seen: SandboxRow): Promise<SandboxRow> {
    const begun = performance.now();
    let row = seen;
    while (!resumesSandboxes(this.#hosts.standing(row.host_id))) {
      const leaving = await findLeaving(this.#database.db, row.id);
      const waitMs = leaving === undefined ? 0 : leaving === "moves" ? saveTimeoutMs : transitionTimeoutMs;
      if (performance.now() - begun >= waitMs) break;
      await this.#records.changed(row.id, lookIntervalMs);
      row = await this.#records.ofAnyTeam(row.id);
    }
    return row;
  }

  /**
   * A sandbox whose guest can be talked to, or the error a user gets who wants to. One with `auto_resume` is resumed first;
   * and because its record may be a moment behind its host, which may just have paused it, the host is asked: that counts
   * as activity too, so it is not paused before the request reaches the guest.
   */
  async usable(owned: OwnedId): Promise<SandboxRow> {
    const row = await this.#records.get(owned);
    if (!row.auto_resume) {
      requireAllowed(row, useOf(row));
      return row;
    }
    if (decide(row.state, useOf(row)).kind !== "deny" && (await this.#ping(row))) return row;
    return this.#wake(row);
  }

  /** Whether a sandbox that its record calls running does run: only inactivity pauses one without the control plane being first to know. */
  async answers(row: SandboxRow): Promise<boolean> {
    return row.timeout_sec === 0 || this.#ping(row);
  }

  /** Resumes a paused sandbox because somebody asked for it, after what is under way has ended. */
  async start(owned: OwnedId, options: { readonly memory: boolean }): Promise<SandboxRow> {
    return this.#untilRunning(owned, { memory: options.memory, automatic: false });
  }

  /** False when the host says that the sandbox cannot be used as it is. */
  async #ping(row: SandboxRow): Promise<boolean> {
    const host = this.#hosts.get(row.host_id);
    try {
      await host.call(() => host.client.pingSandbox({ sandboxId: row.id }, { timeoutMs: callTimeoutMs }));
      return true;
    } catch (error) {
      if (error instanceof PlatformError && error.code === "sandbox_wrong_state") return false;
      throw error;
    }
  }

  /** Of a record: waking is shared by all who ask, so whose it is was found out before. */
  async #wake(row: SandboxRow): Promise<SandboxRow> {
    const { id } = row;
    const known = this.#waking.get(id);
    if (known !== undefined) return known;
    const waking = this.#untilRunning(row, { memory: true, automatic: true }).finally(() => this.#waking.delete(id));
    this.#waking.set(id, waking);
    return waking;
  }

  /** Resumes a paused sandbox, after what is under way has ended. */
  async #untilRunning(owned: OwnedId, resume: Resume): Promise<SandboxRow> {
    const end = performance.now() + saveTimeoutMs;
    for (;;) {
      const row = await this.#look(owned);
      let refusal: unknown;
      if (row.state === "running") return row;
      if (row.state === "paused" || row.state === "resuming") {
        refusal = await this.#resumeBecauseNeeded(row, resume);
        if (refusal === undefined) continue;
      } else if (row.state !== "pausing" && row.state !== "snapshotting") requireAllowed(row, useOf(row));
      if (performance.now() > end) {
        throw new PlatformError("sandbox_resume_failed", `sandbox ${row.id} could not be resumed in time; it is ${row.state}`, {
          cause: refusal,
        });
      }
      await this.#records.changed(row.id, lookIntervalMs);
    }
  }

  /** Answers why not, where waiting may help. */
  async #resumeBecauseNeeded(row: SandboxRow, { memory, automatic }: Resume): Promise<unknown> {
    this.#log.info({ sandboxId: row.id, automatic }, "a paused sandbox is needed; resuming it");
    const change: Change = {
      kind: "sandbox.resume",
      request: { kind: "resume", memory },
      starts: true,
      rpc: async (host, revision) =>
        host.client.resumeSandbox({ sandboxId: row.id, memory, automatic, revision }, { timeoutMs: saveTimeoutMs }),
    };
    try {
      await this.#onHost(row, change, unnamed(row.team_id));
      if (automatic) await this.#extendAtWake(row);
      this.#records.resumed(await this.#records.get(row));
      return undefined;
    } catch (error) {
      if (mayChange(error)) return error;
      throw error;
    }
  }

  async #extendAtWake(row: SandboxRow): Promise<void> {
    const extended = await extendExpiry(this.#database.db, row, wakeExpirySec, this.#records.now(), { lasting: false });
    if (extended !== undefined) this.#records.written(extended);
  }

  /** The record with its host's newest word. */
  async #look(owned: OwnedId): Promise<SandboxRow> {
    const row = await this.#records.get(owned);
    const observed = await this.#hosts.get(row.host_id).getSandbox(row.id);
    if (observed === undefined) {
      const now = await this.#records.get(owned);
      if (now.host_id !== row.host_id) return this.#look(owned); // it was moved just then
      requireAllowed(row, useOf(row)); // what an ended one says
      throw new PlatformError("sandbox_not_found", `the host of sandbox ${row.id} does not know it`);
    }
    await this.#records.observe(observed);
    return this.#records.get(row);
  }
}

/** What a host says of a sandbox that is on its way to another, or there. */
const isOfMove: ReadonlySet<ErrorCode> = new Set(["sandbox_not_found", "sandbox_busy", "sandbox_changed"]);

interface Resume {
  readonly memory: boolean;
  /** Because a request needed the guest, not because a user asked */
  readonly automatic: boolean;
}

/** Whether waiting may help. */
function mayChange(error: unknown): boolean {
  return error instanceof PlatformError && (error.code === "sandbox_wrong_state" || error.code === "sandbox_busy");
}
