import { decide, PlatformError } from "@roost/contract";
import { minute, type Logger } from "@roost/kit";

import { availableMemoryMib } from "./capacity.ts";
import type { SandboxContext } from "./context.ts";
import { newRecord, sandboxSpecSchema, type SandboxRecord, type SandboxSpec } from "./sandbox-record.ts";
import { Sandbox } from "./sandbox.ts";
import type { StartedVm } from "./start-vm.ts";

/** Sandboxes ended at once when all of them end. */
const stopsAtOnce = 8;
/**
 * How long a sandbox that stopped by itself (timeout, shutdown) is still listed in `ms`, so that a control plane that was away
 * learns why. It holds nothing but its record.
 */
const stoppedRetentionMs = 60 * minute;
/** Sandboxes a host remembers, failed and stopped ones included: listing them and starting again must stay quick. */
const recordCountMax = 5_000;
const retentionSweepMs = minute;

export interface ManagerOptions {
  readonly context: SandboxContext;
  /** Memory in `MiB` that must really be free on the host after a guest has taken all of its own */
  readonly memoryReservedMib: number;
  /** Injected in tests */
  readonly availableMemoryMib?: () => Promise<number>;
}

/** The sandboxes of this host by id. */
export class SandboxManager {
  readonly #context: SandboxContext;
  readonly #log: Logger;
  readonly #options: ManagerOptions;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #retentionTimer: NodeJS.Timeout;
  #isDraining = false;

  constructor(options: ManagerOptions) {
    this.#options = options;
    this.#context = options.context;
    this.#log = options.context.log;
    this.#retentionTimer = setInterval(() => void this.forgetOldStopped(), retentionSweepMs);
    this.#retentionTimer.unref();
  }

  /** Answers when the sandbox runs. Joins a create of the same id in flight, or returns the running sandbox. */
  async create(spec: SandboxSpec): Promise<SandboxRecord> {
    const checked = checkSpec(spec);
    const existing = this.#sandboxes.get(checked.sandboxId);
    if (existing !== undefined) {
      if (existing.state === "creating" || existing.state === "running") return existing.created();
      throw new PlatformError("sandbox_exists", `a sandbox with this id exists and is ${existing.state}`);
    }
    this.#refuseWhenDraining();
    if (this.#sandboxes.size >= recordCountMax) {
      throw new PlatformError("capacity_exhausted", `this host remembers ${recordCountMax} sandboxes; delete failed and stopped ones`, {
        retryAfterSec: 60,
      });
    }
    // Before anything waits: two creates of one id must not both come this far
    this.#context.capacity.reserve(checked.sandboxId, checked.memoryMib);
    const sandbox = new Sandbox({
      record: newRecord(checked, Date.now()),
      context: this.#context,
      onGone: () => this.#sandboxes.delete(checked.sandboxId),
    });
    this.#sandboxes.set(checked.sandboxId, sandbox);
    try {
      await this.#checkHost(checked);
      await sandbox.begin();
    } catch (error) {
      sandbox.abandon(error);
      this.#sandboxes.delete(checked.sandboxId);
      this.#context.capacity.release(checked.sandboxId);
      throw error;
    }
    return sandbox.created();
  }

  /** What can be refused without leaving a trace of the sandbox. */
  async #checkHost(spec: SandboxSpec): Promise<void> {
    const images = await this.#context.images.template(spec.template);
    if (spec.diskSizeMib !== 0 && spec.diskSizeMib < images.diskSizeMib) {
      throw new PlatformError("request_invalid", `template '${spec.template}' needs a disk of at least ${images.diskSizeMib} MiB`);
    }
    await this.#context.disks.check();
    const freeMib = await (this.#options.availableMemoryMib ?? availableMemoryMib)();
    // A guest takes its memory as it uses it: a quarter must be there now, or the next minutes end badly
    const neededMib = Math.trunc(spec.memoryMib / 4) + this.#options.memoryReservedMib;
    if (freeMib < neededMib) {
      throw new PlatformError("capacity_exhausted", "this host's memory is in use right now; end a sandbox or try again later", {
        detail: `${freeMib} MiB available, ${neededMib} MiB needed`,
        retryAfterSec: 10,
      });
    }
    this.#refuseWhenDraining();
  }

  #refuseWhenDraining(): void {
    if (this.#isDraining)
      throw new PlatformError("shutting_down", "this host takes no new sandboxes right now; try again later", { retryAfterSec: 10 });
  }

  /** Ends and forgets a sandbox. Unknown ids succeed: it is gone, as was asked. */
  async destroy(sandboxId: string): Promise<void> {
    await this.#sandboxes.get(sandboxId)?.stop("deleted");
  }

  get(sandboxId: string): Sandbox {
    const sandbox = this.#sandboxes.get(sandboxId);
    if (sandbox?.isKnown !== true)
      throw new PlatformError("sandbox_not_found", `there is no sandbox '${sandboxId.slice(0, 64)}' on this host`);
    return sandbox;
  }

  list(): Sandbox[] {
    return [...this.#sandboxes.values()].filter((sandbox) => sandbox.isKnown);
  }

  /** A sandbox that an earlier host agent left, with its VM when that still runs. */
  restore(record: SandboxRecord, adopted?: StartedVm): Sandbox {
    const sandbox = new Sandbox({
      record,
      context: this.#context,
      onGone: () => this.#sandboxes.delete(record.spec.sandboxId),
    });
    this.#sandboxes.set(sandbox.id, sandbox);
    if (adopted !== undefined) this.#context.capacity.hold(sandbox.id, record.spec.memoryMib);
    sandbox.resumeLoop(adopted);
    return sandbox;
  }

  drain(): void {
    this.#isDraining = true;
  }

  /** Ends every sandbox that lives, some at once. Resolves with how many could not be ended. */
  async stopAll(): Promise<number> {
    this.drain();
    const queue = [...this.#sandboxes.values()].filter(
      (sandbox) => decide(sandbox.state, { kind: "stop" }).kind === "accept" && sandbox.state !== "failed",
    );
    let failures = 0;
    const worker = async () => {
      for (let sandbox = queue.shift(); sandbox !== undefined; sandbox = queue.shift()) {
        await sandbox.stop("shutdown").catch((error: unknown) => {
          failures += 1;
          this.#log.error({ err: error, sandboxId: sandbox.id }, "a sandbox could not be ended");
        });
      }
    };
    await Promise.all(Array.from({ length: stopsAtOnce }, worker));
    return failures;
  }

  /** Ends creates in flight, leaves VMs running, ends all loops. Resolves with how many sandboxes have a VM to adopt. */
  async releaseAll(): Promise<number> {
    this.drain();
    clearInterval(this.#retentionTimer);
    await Promise.all([...this.#sandboxes.values()].map((sandbox) => sandbox.release()));
    return [...this.#sandboxes.values()].filter((sandbox) => sandbox.record.vm !== null).length;
  }

  async forgetOldStopped(nowMs = Date.now()): Promise<void> {
    for (const sandbox of this.list()) {
      const { state, timeEndedMs } = sandbox.record;
      if (state !== "stopped" || timeEndedMs === null || nowMs - timeEndedMs < stoppedRetentionMs) continue;
      await sandbox
        .stop("deleted")
        .catch((error: unknown) => this.#log.warn({ err: error, sandboxId: sandbox.id }, "an old record could not be removed"));
    }
  }
}

function checkSpec(spec: SandboxSpec): SandboxSpec {
  const parsed = sandboxSpecSchema.safeParse(spec);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new PlatformError("request_invalid", `${issue?.path.join(".") ?? "the sandbox"}: ${issue?.message ?? "is not valid"}`);
}
