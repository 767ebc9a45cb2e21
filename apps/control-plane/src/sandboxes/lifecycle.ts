import { decide, PlatformError, type SandboxRequest } from "@roost/contract";
import type { Generation } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import type { Logger } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs, saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import type { SandboxRecords } from "./records.ts";
import { requireAllowed, requireNotEnded, useOf } from "./require-state.ts";

/** Time between two looks at a sandbox whose change is waited for in `ms`, when the host's watch says nothing */
const lookIntervalMs = 250;

type WireSandbox = Parameters<typeof observedFrom>[0];

export interface LifecycleDependencies {
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly log: Logger;
}

/** Saving sandboxes and starting them again. The host acts and answers with the sandbox; that is then the record. */
export class Lifecycle {
  readonly #records: SandboxRecords;
  readonly #hosts: Hosts;
  readonly #log: Logger;
  /** Resumes that requests wait for, one per sandbox however many they are */
  readonly #waking = new Map<string, Promise<SandboxRow>>();

  constructor(deps: LifecycleDependencies) {
    this.#records = deps.records;
    this.#hosts = deps.hosts;
    this.#log = deps.log;
  }

  async pause(id: string, options: { readonly memory: boolean }): Promise<SandboxRow> {
    return this.#change(id, { kind: "pause" }, async (host) =>
      host.client.pauseSandbox({ sandboxId: id, memory: options.memory }, { timeoutMs: saveTimeoutMs }),
    );
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
      this.#records.vmReplaced(id);
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
    const waking = this.#untilRunning(id).finally(() => this.#waking.delete(id));
    this.#waking.set(id, waking);
    return waking;
  }

  /** Resumes a paused sandbox, after what is under way has ended. */
  async #untilRunning(id: string): Promise<SandboxRow> {
    const end = performance.now() + saveTimeoutMs;
    for (;;) {
      const row = await this.#look(id);
      let refusal: unknown;
      if (row.state === "running") return row;
      if (row.state === "paused" || row.state === "resuming") {
        refusal = await this.#resumeBecauseNeeded(row);
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
  async #resumeBecauseNeeded(row: SandboxRow): Promise<unknown> {
    const host = this.#hosts.get(row.host_id);
    this.#log.info({ sandboxId: row.id }, "a request needs a paused sandbox; resuming it");
    try {
      const answer = await host.call(() => host.client.resumeSandbox({ sandboxId: row.id, automatic: true }, { timeoutMs: saveTimeoutMs }));
      await this.#records.observe(observedFrom(answer.sandbox, host.id));
      this.#records.resumed(await this.#records.get(row.id));
      return undefined;
    } catch (error) {
      if (error instanceof PlatformError && (error.code === "sandbox_wrong_state" || error.code === "sandbox_busy")) return error;
      throw error;
    }
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
