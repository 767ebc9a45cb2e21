import { decide, PlatformError, type SandboxRequest } from "@roost/contract";
import type { Generation } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { second, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import { extendExpiry } from "../db/expiry.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { SandboxRecords } from "./records.ts";
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
  readonly log: Logger;
}

/** Saving sandboxes and starting them again. The host acts and answers with the sandbox; that is then the record. */
export class Lifecycle {
  readonly #database: Database;
  readonly #records: SandboxRecords;
  readonly #hosts: Hosts;
  readonly #log: Logger;
  /** Resumes that requests wait for, one per sandbox however many they are */
  readonly #waking = new Map<string, Promise<SandboxRow>>();

  constructor(deps: LifecycleDependencies) {
    this.#database = deps.database;
    this.#records = deps.records;
    this.#hosts = deps.hosts;
    this.#log = deps.log;
  }

  async pause(id: string, { memory, reason = "" }: PauseOptions): Promise<SandboxRow> {
    return this.#change(id, { kind: "pause" }, async (host) =>
      host.client.pauseSandbox({ sandboxId: id, memory, reason }, { timeoutMs: saveTimeoutMs }),
    );
  }

  /**
   * Pauses a running sandbox, after a snapshot or fork under way has ended; `sandbox_wrong_state` when it is paused already. Time that is
   * up makes no difference: that is why it is paused.
   */
  async pauseRunning(id: string, options: PauseOptions): Promise<SandboxRow> {
    const end = performance.now() + transitionTimeoutMs;
    for (;;) {
      const row = await this.#records.recorded(id);
      const isRunning = row.time_delete_requested === null && presenceOf(row) === "running";
      if (!isRunning) throw new PlatformError("sandbox_wrong_state", `sandbox ${id} is not running: it is ${row.state}`);
      try {
        return await this.pause(id, options);
      } catch (error) {
        if (!mayChange(error) || performance.now() > end) throw error;
        await this.#records.changed(id, lookIntervalMs);
      }
    }
  }

  async resume(id: string, options: { readonly memory: boolean; readonly timeoutSec?: number | undefined }): Promise<SandboxRow> {
    const { memory, timeoutSec } = options;
    const row = await this.#change(id, { kind: "resume", memory }, async (host) =>
      host.client.resumeSandbox(
        { sandboxId: id, memory, ...(timeoutSec === undefined ? {} : { timeoutSec }) },
        { timeoutMs: saveTimeoutMs },
      ),
    );
    this.#records.resumed(row);
    return row;
  }

  async checkpoint(id: string): Promise<{ readonly row: SandboxRow; readonly generation: Generation }> {
    let generation: Generation | undefined;
    const row = await this.#change(id, { kind: "checkpoint" }, async (host) => {
      const answer = await host.client.checkpointSandbox({ sandboxId: id }, { timeoutMs: saveTimeoutMs });
      generation = answer.generation;
      return answer;
    });
    if (generation === undefined) throw new PlatformError("internal", "the sandbox's host did not say which generation it made");
    return { row, generation };
  }

  async rollback(id: string, generation: number): Promise<SandboxRow> {
    const row = await this.#change(id, { kind: "rollback" }, async (host) => {
      const answer = await host.client.rollbackSandbox({ sandboxId: id, generation }, { timeoutMs: saveTimeoutMs });
      this.#records.endConnections(id);
      return answer;
    });
    this.#records.resumed(row);
    return row;
  }

  /** Newest first. */
  async generations(id: string): Promise<readonly Generation[]> {
    const row = await this.#records.get(id);
    if (row.state === "stopped") requireAllowed(row, { kind: "rollback" });
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => host.client.listGenerations({ sandboxId: id }, { timeoutMs: callTimeoutMs }));
    return answer.generations;
  }

  async #change(
    id: string,
    request: SandboxRequest,
    rpc: (host: HostLink) => Promise<{ readonly sandbox?: WireSandbox }>,
  ): Promise<SandboxRow> {
    const row = await this.#records.get(id);
    requireNotEnded(row, request);
    const host = this.#hosts.get(row.host_id);
    const answer = await host.call(() => rpc(host));
    await this.#records.observe(observedFrom(answer.sandbox, host.id));
    return this.#records.get(id);
  }

  /**
   * A sandbox whose guest can be talked to, or the error a user gets who wants to. One with `auto_resume` is resumed first;
   * and because its record may be a moment behind its host, which may just have paused it, the host is asked: that counts
   * as activity too, so it is not paused before the request reaches the guest.
   */
  async usable(id: string): Promise<SandboxRow> {
    const row = await this.#records.get(id);
    if (!row.auto_resume) {
      requireAllowed(row, useOf(row));
      return row;
    }
    if (decide(row.state, useOf(row)).kind !== "deny" && (await this.#ping(row))) return row;
    return this.#wake(id);
  }

  /** Whether a sandbox that its record calls running does run: only inactivity pauses one without the control plane being first to know. */
  async answers(row: SandboxRow): Promise<boolean> {
    return row.timeout_sec === 0 || this.#ping(row);
  }

  /** Resumes a paused sandbox because somebody asked for it, after what is under way has ended. */
  async start(id: string, options: { readonly memory: boolean }): Promise<SandboxRow> {
    return this.#untilRunning(id, { memory: options.memory, automatic: false });
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

  async #wake(id: string): Promise<SandboxRow> {
    const known = this.#waking.get(id);
    if (known !== undefined) return known;
    const waking = this.#untilRunning(id, { memory: true, automatic: true }).finally(() => this.#waking.delete(id));
    this.#waking.set(id, waking);
    return waking;
  }

  /** Resumes a paused sandbox, after what is under way has ended. */
  async #untilRunning(id: string, resume: Resume): Promise<SandboxRow> {
    const end = performance.now() + saveTimeoutMs;
    for (;;) {
      const row = await this.#look(id);
      let refusal: unknown;
      if (row.state === "running") return row;
      if (row.state === "paused" || row.state === "resuming") {
        refusal = await this.#resumeBecauseNeeded(row, resume);
        if (refusal === undefined) continue;
      } else if (row.state !== "pausing" && row.state !== "snapshotting") requireAllowed(row, useOf(row));
      if (performance.now() > end) {
        throw new PlatformError("sandbox_resume_failed", `sandbox ${id} could not be resumed in time; it is ${row.state}`, {
          cause: refusal,
        });
      }
      await this.#records.changed(id, lookIntervalMs);
    }
  }

  /** Answers why not, where waiting may help. */
  async #resumeBecauseNeeded(row: SandboxRow, { memory, automatic }: Resume): Promise<unknown> {
    const host = this.#hosts.get(row.host_id);
    this.#log.info({ sandboxId: row.id, automatic }, "a paused sandbox is needed; resuming it");
    try {
      const answer = await host.call(() =>
        host.client.resumeSandbox({ sandboxId: row.id, memory, automatic }, { timeoutMs: saveTimeoutMs }),
      );
      await this.#records.observe(observedFrom(answer.sandbox, host.id));
      if (automatic) await this.#extendAtWake(row.id);
      this.#records.resumed(await this.#records.get(row.id));
      return undefined;
    } catch (error) {
      if (mayChange(error)) return error;
      throw error;
    }
  }

  async #extendAtWake(id: string): Promise<void> {
    const extended = await extendExpiry(this.#database.db, id, wakeExpirySec, this.#records.now(), { lasting: false });
    if (extended !== undefined) this.#records.written(extended);
  }

  /** The record with its host's newest word. */
  async #look(id: string): Promise<SandboxRow> {
    const row = await this.#records.get(id);
    const observed = await this.#hosts.get(row.host_id).getSandbox(id);
    if (observed === undefined) {
      requireAllowed(row, useOf(row)); // what an ended one says
      throw new PlatformError("sandbox_not_found", `the host of sandbox ${id} does not know it`);
    }
    await this.#records.observe(observed);
    return this.#records.get(id);
  }
}

interface Resume {
  readonly memory: boolean;
  /** Because a request needed the guest, not because a user asked */
  readonly automatic: boolean;
}

/** Whether waiting may help. */
function mayChange(error: unknown): boolean {
  return error instanceof PlatformError && (error.code === "sandbox_wrong_state" || error.code === "sandbox_busy");
}
