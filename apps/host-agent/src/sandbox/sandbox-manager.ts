import { decide, envsEntriesMax, isHostTemplateName, PlatformError, type TemplateDefaults } from "@roost/contract";
import { minute, type Logger } from "@roost/kit";
import { authorityFor } from "../egress/sandbox-authority.ts";
import type { z } from "zod";

import type { HeldImage } from "../images/held-images.ts";
import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import type { PoolMember, WarmPool } from "../pool/warm-pool.ts";
import type { Template, TemplateKind, TemplateRecord } from "../templates/template-store.ts";
import { neededBy, type ResolvedTemplate, type Templates } from "../templates/templates.ts";
import type { SandboxContext } from "./context.ts";
import { fromFork, fromPool, fromTemplate } from "./create-starts.ts";
import {
  askedSpecSchema,
  newRecord,
  sandboxSpecSchema,
  shownTemplate,
  type AskedSpec,
  type SandboxRecord,
  type SandboxSpec,
} from "./sandbox-record.ts";
import { Sandbox } from "./sandbox.ts";
import type { StartedVm } from "./start-vm.ts";

/** Sandboxes ended or paused at once when all of them are. */
const endsAtOnce = 8;
/**
 * How long a sandbox that stopped by itself (timeout, shutdown) is still listed in `ms`, so that a control plane that was away
 * learns why. It holds nothing but its record.
 */
const stoppedRetentionMs = 60 * minute;
/** Sandboxes a host remembers, failed and stopped ones included: listing them and starting again must stay quick. */
const recordCountMax = 5_000;
const retentionSweepMs = minute;

/** What a fork asks of each child. */
export interface ForkChild {
  readonly sandboxId: string;
  readonly accessToken: string;
  /** Added to the parent's */
  readonly envs: Readonly<Record<string, string>>;
}

export interface CreateTemplateOptions {
  readonly kind: TemplateKind;
  readonly memory: boolean;
  readonly replace: boolean;
  /** Undefined: those of the sandbox */
  readonly defaults?: TemplateDefaults;
}

export interface ManagerOptions {
  readonly context: SandboxContext;
  readonly templates: Templates;
  readonly pool: WarmPool;
}

/** The sandboxes of this host by id. */
export class SandboxManager {
  readonly #context: SandboxContext;
  readonly #log: Logger;
  readonly #options: ManagerOptions;
  readonly #sandboxes = new Map<string, Sandbox>();
  readonly #creating = new Map<string, Promise<SandboxRecord>>();
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
  async create(spec: AskedSpec): Promise<SandboxRecord> {
    const asked = checked(askedSpecSchema, spec);
    const existing = this.#sandboxes.get(asked.sandboxId);
    if (existing !== undefined) {
      if (existing.state === "creating" || existing.state === "running") return existing.created();
      throw new PlatformError("sandbox_exists", `a sandbox with this id exists and is ${existing.state}`);
    }
    // Nothing may wait before it is here: two creates of one id must not both come this far
    const present = this.#creating.get(asked.sandboxId);
    if (present !== undefined) return present;
    const creating = this.#create(asked).finally(() => this.#creating.delete(asked.sandboxId));
    this.#creating.set(asked.sandboxId, creating);
    return creating;
  }

  async #create(asked: AskedSpec): Promise<SandboxRecord> {
    this.#refuseNew();
    if (asked.network.proxy !== null) await this.#context.network.checkProxy(asked.network.proxy);
    const { templates, pool } = this.#options;
    const resolved = await templates.resolve(asked.template);
    const template = { ...resolved, name: shownTemplate(asked) };
    const network = { ...asked.network, authority: await authorityFor(Object.keys(asked.network.rules), null) };
    const spec = { ...asked, ...templates.sizesFor(template, asked), network, defaults: asked.defaults ?? template.defaults };
    checkEnvs(spec);
    checkDiskSize(spec, template);
    const isUsualDisk = spec.diskSizeMib === 0 || spec.diskSizeMib === template.diskSizeMib; // a control plane names the usual size, too
    const member = isUsualDisk ? pool.take(spec.template, spec) : undefined;
    const sandbox = this.#newSandbox(spec);
    try {
      if (member === undefined) await this.#context.capacity.reserveSoon(spec.sandboxId, spec.memoryMib);
      else this.#context.capacity.pass(member.id, spec.sandboxId);
      await this.#context.checkRoom(spec.memoryMib);
      this.#refuseWhenDraining();
      const parts = { spec, context: this.#context, log: this.#log };
      const start = fromTemplate(parts, template, templates);
      if (member === undefined) await sandbox.begin(start);
      else {
        await this.#adoptMember(member, sandbox.record);
        await sandbox.begin(fromPool(parts, member, start), { isRecorded: true });
      }
    } catch (error) {
      this.#giveUp(sandbox, error);
      if (member !== undefined) await pool.discard(member);
      throw error;
    }
    return sandbox.created();
  }

  /** The VM's folder becomes the sandbox's: from here on recovery finds it as a sandbox that is being created. */
  async #adoptMember(member: PoolMember, record: SandboxRecord): Promise<void> {
    const { started } = member;
    const { sandboxId } = record.spec;
    await this.#context.store.adopt(member.folder, {
      ...record,
      ...member.origin,
      vm: { ...started.vm.record, sandboxId, folder: this.#context.store.vmFolder(sandboxId) },
      layers: [...started.layers],
      machine: started.machine,
      baseMemory: started.baseMemory,
    });
  }

  #newSandbox(spec: SandboxSpec): Sandbox {
    const sandbox = new Sandbox({
      record: newRecord(spec, Date.now()),
      context: this.#context,
      onGone: () => this.#sandboxes.delete(spec.sandboxId),
    });
    this.#sandboxes.set(spec.sandboxId, sandbox);
    return sandbox;
  }

  #giveUp(sandbox: Sandbox, error: unknown): void {
    sandbox.abandon(error);
    this.#sandboxes.delete(sandbox.id);
    this.#context.capacity.release(sandbox.id);
  }

  /**
   * New sandboxes from the memory and disk of one that runs (it stands still for milliseconds) or is paused. All of them start from the same
   * instant; each succeeds or fails by itself. A call that is repeated gets the children that it has made.
   */
  async fork(parentId: string, children: readonly ForkChild[]): Promise<PromiseSettledResult<SandboxRecord>[]> {
    const present = () => children.flatMap(({ sandboxId }) => this.#sandboxes.get(sandboxId) ?? []);
    if (present().length === children.length) return madeBefore(present());
    this.#refuseNew();
    const parent = this.get(parentId);
    const { spec, hasMemory, state } = parent.record;
    if (state === "paused" && !hasMemory) {
      throw new PlatformError("sandbox_wrong_state", "the sandbox was paused without its memory: resume it, then fork it");
    }
    await this.#context.checkRoom(spec.memoryMib * children.length);
    if (present().length === children.length) return madeBefore(present()); // two of them came at once
    const begun = children.map((child) => this.#beginChild({ ...spec, ...child, envs: { ...spec.envs, ...child.envs } }));
    let detail: Readonly<Record<string, string>>;
    try {
      detail = await parent.capture("fork", {
        memory: true,
        use: async (generation) => {
          for (const child of begun) await child.link(this.#context.store.images(parentId), generation, spec.accessToken);
        },
      });
    } catch (error) {
      for (const child of begun) await child.giveUp(error);
      throw error;
    }
    const message = `sandbox was forked into ${children.length}`;
    this.#context.events.emit("sandbox.forked", { sandboxId: parentId, message, detail: { ...detail, children: String(children.length) } });
    return Promise.allSettled(begun.map((child) => child.created()));
  }

  /** A child that has its place and memory on this host, or the reason why not. */
  #beginChild(given: SandboxSpec) {
    let sandbox: Sandbox | undefined;
    let failure: unknown;
    const attempt = async (work: () => Promise<void> | void) => {
      try {
        if (failure === undefined) await work();
      } catch (error) {
        failure = error;
        if (sandbox !== undefined) this.#giveUp(sandbox, error);
        await this.#context.store.remove(given.sandboxId);
      }
    };
    const reserve = () => {
      const spec = checked(sandboxSpecSchema, given);
      checkEnvs(spec);
      if (this.#sandboxes.has(spec.sandboxId)) throw new PlatformError("sandbox_exists", "a sandbox with this id exists");
      this.#refuseWhenFull();
      this.#context.capacity.reserve(spec.sandboxId, spec.memoryMib);
      sandbox = this.#newSandbox(spec);
    };
    try {
      reserve();
    } catch (error) {
      failure = error;
    }
    return {
      link: (from: ImageFolder, generation: Generation, parentToken: string) =>
        attempt(async () => {
          if (sandbox === undefined) return;
          const { spec } = sandbox.record;
          await this.#context.store.create(sandbox.record);
          await this.#context.onStep?.("fork:child-recorded", spec.sandboxId);
          const images = this.#context.store.images(spec.sandboxId);
          await images.create();
          const own = await from.linkInto(images, generation.number, { kind: "fork", sandboxId: spec.sandboxId });
          await this.#context.onStep?.("fork:child-linked", spec.sandboxId);
          await sandbox.begin(fromFork({ spec, context: this.#context, log: this.#log }, own, parentToken), { isRecorded: true });
        }),
      giveUp: (error: unknown) =>
        attempt(() => {
          throw error;
        }),
      created: async () => {
        if (failure !== undefined || sandbox === undefined) throw failure;
        return sandbox.created();
      },
    };
  }

  /**
   * A template from a sandbox that runs (it stands still for milliseconds) or is paused. Rejects with `snapshot_exists` before anything is done. A step that is kept
   * already is not made again.
   */
  async createTemplate(sandboxId: string, name: string, options: CreateTemplateOptions): Promise<Template> {
    this.#refuseWhenDraining();
    const { templates } = this.#options;
    const { kind } = options;
    const sandbox = this.get(sandboxId);
    if (kind === "step" && options.memory) throw new PlatformError("request_invalid", "a step of a build is a disk: memory must be false");
    const present = kind === "step" && !options.replace ? await templates.step(name) : undefined;
    if (present !== undefined) return present;
    await templates.refuseName({ name, kind }, options);
    await this.#context.disks.check();
    const { spec, state, hasMemory, disk } = sandbox.record;
    if (state === "paused" && hasMemory && !options.memory) {
      throw new PlatformError(
        "sandbox_wrong_state",
        "the sandbox is paused with its memory, where its latest writes may be: resume it to publish its disk alone, or publish both",
      );
    }
    let made: Template | undefined;
    await sandbox.capture("snapshot", {
      memory: options.memory,
      forBuild: kind === "build",
      use: async (generation) => {
        const withMemory = generation.manifest.memory !== null;
        const record: TemplateRecord = {
          formatVersion: 1,
          name,
          kind,
          timeCreatedMs: Date.now(),
          sourceSandboxId: sandboxId,
          diskSizeMib: disk?.sizeMib ?? generation.manifest.disk.sizeMib,
          sizes: withMemory ? { vcpus: spec.vcpus, memoryMib: spec.memoryMib } : null,
          guestToken: withMemory ? spec.accessToken : null,
          defaults: options.defaults ?? spec.defaults,
        };
        made = await templates.create(record, this.#context.store.images(sandboxId), generation, options);
      },
    });
    if (made === undefined) throw new PlatformError("snapshot_failed", "the snapshot could not be made");
    const shown = isHostTemplateName(name) ? "a snapshot" : `snapshot '${name}'`;
    if (kind === "snapshot") this.#context.logs.note(sandboxId, "sandbox.snapshotted", `${shown} was made of it`);
    return made;
  }

  /**
   * Removes a template. A snapshot that sandboxes were made of stays: rejects with `snapshot_in_use`, which names them; of what builds made the control plane decides (no
   * sandbox needs the files of its template). `snapshot_not_found`.
   */
  async deleteTemplate(name: string): Promise<void> {
    const users = isHostTemplateName(name)
      ? []
      : this.list().filter((sandbox) => sandbox.record.spec.template === name && sandbox.state !== "stopped");
    if (users.length > 0) {
      const named = users.slice(0, 5).map((sandbox) => sandbox.id);
      const more = users.length > named.length ? ` and ${users.length - named.length} more` : "";
      throw new PlatformError("snapshot_in_use", `snapshot '${name}' is used by ${named.join(", ")}${more}; delete those sandboxes first`);
    }
    await this.#options.templates.remove(name);
  }

  #refuseNew(): void {
    this.#refuseWhenDraining();
    this.#refuseWhenFull();
  }

  #refuseWhenFull(): void {
    if (this.#sandboxes.size < recordCountMax) return;
    throw new PlatformError("capacity_exhausted", `this host remembers ${recordCountMax} sandboxes; delete failed and stopped ones`, {
      retryAfterSec: 60,
    });
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

  has(sandboxId: string): boolean {
    return this.#sandboxes.get(sandboxId)?.isKnown === true;
  }

  list(): Sandbox[] {
    return [...this.#sandboxes.values()].filter((sandbox) => sandbox.isKnown);
  }

  /** A sandbox that an earlier host agent left, with its VM when that still runs. */
  restore(record: SandboxRecord, adopted?: Pick<StartedVm, "vm" | "slot">): Sandbox {
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

  /** Rejects when no sandbox of this id can come from another host. */
  refuseArrival(sandboxId: string): void {
    this.#refuseNew();
    if (this.#sandboxes.has(sandboxId)) throw new PlatformError("sandbox_exists", "a sandbox with this id exists on this host");
  }

  /** Images of the cache that the sandboxes depend on, and their generations. */
  async neededImages(): Promise<HeldImage[]> {
    const needed: HeldImage[] = [];
    for (const { id, record } of this.list()) {
      if (record.disk !== null) needed.push({ path: record.disk.base, digest: record.disk.baseDigest });
      if (record.machine !== null) needed.push(record.machine.agentDisk);
      for (const generation of await this.#context.store.images(id).list()) needed.push(...neededBy(generation));
    }
    return needed;
  }

  drain(): void {
    this.#isDraining = true;
  }

  /** Ends every sandbox that has a VM, some at once; paused ones stay. Resolves with how many could not be ended. */
  async stopAll(): Promise<number> {
    this.drain();
    const living = this.#living("stop");
    const failures = await this.#each(living, (sandbox) => sandbox.stop("shutdown"));
    return failures.length;
  }

  /** Pauses every sandbox that runs, some at once. Those that could not be paused run on. */
  async pauseAll(): Promise<{ readonly paused: string[]; readonly failed: { readonly sandboxId: string; readonly error: unknown }[] }> {
    const living = this.#living("pause");
    const failed = await this.#each(living, async (sandbox) => void (await sandbox.pause({ memory: true })));
    return { paused: living.map((sandbox) => sandbox.id).filter((id) => !failed.some((each) => each.sandboxId === id)), failed };
  }

  #living(request: "stop" | "pause"): Sandbox[] {
    return [...this.#sandboxes.values()].filter(
      (sandbox) => decide(sandbox.state, { kind: request }).kind === "accept" && sandbox.state !== "failed" && sandbox.state !== "paused",
    );
  }

  async #each(sandboxes: readonly Sandbox[], work: (sandbox: Sandbox) => Promise<void>) {
    const queue = [...sandboxes];
    const failed: { sandboxId: string; error: unknown }[] = [];
    const worker = async () => {
      for (let sandbox = queue.shift(); sandbox !== undefined; sandbox = queue.shift()) {
        const { id } = sandbox;
        await work(sandbox).catch((error: unknown) => {
          failed.push({ sandboxId: id, error });
          this.#log.error({ err: error, sandboxId: id }, "a sandbox could not be ended or paused");
        });
      }
    };
    await Promise.all(Array.from({ length: endsAtOnce }, worker));
    return failed;
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

/** Children of a fork that was asked for before. */
async function madeBefore(children: readonly Sandbox[]): Promise<PromiseSettledResult<SandboxRecord>[]> {
  return Promise.allSettled(children.map(async (child) => (child.state === "creating" ? child.created() : child.record)));
}

function checkDiskSize(spec: SandboxSpec, template: ResolvedTemplate): void {
  if (spec.diskSizeMib === 0 || spec.diskSizeMib === template.diskSizeMib) return;
  if (template.kind === "base" && spec.diskSizeMib > template.diskSizeMib) return;
  throw new PlatformError(
    "request_invalid",
    `disk size ${spec.diskSizeMib} MiB does not fit template '${template.name}', whose disk has ${template.diskSizeMib} MiB`,
  );
}

/** The guest gets both at once. */
function checkEnvs({ envs, defaults }: SandboxSpec): void {
  const count = Object.keys({ ...defaults.envs, ...envs }).length;
  if (count <= envsEntriesMax) return;
  throw new PlatformError(
    "request_invalid",
    `envs: with those of its template there are ${count} variables; at most ${envsEntriesMax} are possible`,
  );
}

function checked<Spec>(schema: z.ZodType<Spec>, spec: unknown): Spec {
  const parsed = schema.safeParse(spec);
  if (parsed.success) return parsed.data;
  const [issue] = parsed.error.issues;
  throw new PlatformError("request_invalid", `${issue?.path.join(".") ?? "the sandbox"}: ${issue?.message ?? "is not valid"}`);
}
