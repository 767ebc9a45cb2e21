import {
  createSandboxBodySchema,
  isHostTemplateName,
  memoryMibDefault,
  networkPolicySchema,
  newSandboxId,
  newToken,
  PlatformError,
  vcpusDefault,
  type CreateSandboxBody,
  type ErrorCode,
  type ExpiryAction,
  type ForkSandboxBody,
  type NetworkPolicy,
  type TemplateDefaults,
} from "@roost/contract";
import type { ForkSandboxResponse_Outcome } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import type { Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import {
  forgetSandbox,
  insertSandbox,
  insertSandboxes,
  type NewSandbox,
  markCreateFailed,
  markStopped,
  requestDelete,
  type SandboxRow,
} from "../db/sandboxes.ts";
import { failureFrom } from "../hosts/from-connect-error.ts";
import { createTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import { defaultsFrom, observedFrom } from "../hosts/observed.ts";
import type { Hosts, Placement } from "../hosts/hosts.ts";
import { lockBuild } from "../db/builds.ts";
import { templateNotFound } from "../templates/names.ts";
import { toWireEgress } from "../hosts/wire-egress.ts";
import type { SandboxRecords } from "./records.ts";
import { requireNotEnded } from "./require-state.ts";

/** Failures of a create after which the host is known to keep nothing of the sandbox. */
const nothingRemains: ReadonlySet<ErrorCode> = new Set([
  "template_not_found",
  "template_size_fixed",
  "capacity_exhausted",
  "shutting_down",
  "request_invalid",
  "egress_proxy_invalid",
  "sandbox_busy",
  "rate_limited",
]);
/** Failures of a call after which nobody knows what the host made of it. */
const outcomeUnknown: ReadonlySet<ErrorCode> = new Set(["host_unreachable", "internal"]);

/** What a sandbox has besides what its create asks for. */
export interface CreateOptions {
  /** `s` from each start until its time is up; 0: never */
  readonly expirySec: number;
  readonly expiryAction: ExpiryAction;
  readonly expiryMemory: boolean;
  readonly isSecure: boolean;
  readonly network: NetworkPolicy;
}

export const noOptions: CreateOptions = {
  expirySec: 0,
  expiryAction: "delete",
  expiryMemory: true,
  isSecure: true,
  network: networkPolicySchema.parse({}),
};

/** A sandbox that works for a build: users do not see it. */
export interface BuildSandboxSpec {
  readonly buildId: string;
  /** The host that has the template */
  readonly hostId: string;
  /** Its name there */
  readonly hostTemplate: string;
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** A template that a build made. */
export interface ResolvedTemplate {
  /** Its name on hosts */
  readonly hostTemplate: string;
  readonly buildId: string;
  readonly templateId: string;
  /** As users see it */
  readonly name: string;
}

export interface ForkOptions {
  /** Of the children, as `CreateOptions` has it; default: the parent's */
  readonly expirySec?: number;
}

export type ForkedChild = { readonly row: SandboxRow } | { readonly error: PlatformError };

export interface CreatesDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly log: Logger;
  /** The build that a name means; undefined: it is no built template's */
  readonly resolveTemplate: (name: string) => Promise<ResolvedTemplate | undefined>;
  /** Starts what is to run in a sandbox that booted, and resolves when it is ready */
  readonly startCommand: (row: SandboxRow, defaults: TemplateDefaults, signal: AbortSignal) => Promise<void>;
}

/** What a new sandbox starts from. */
interface Start extends Placement {
  /** As users see it */
  readonly name: string;
  /** The build that made it */
  readonly buildId: string | null;
}

/** New sandboxes, from templates and from other sandboxes: the record comes first, then the host acts. */
export class Creates {
  readonly #deps: CreatesDependencies;
  /** Creates this process waits for. */
  readonly #inFlight = new Set<string>();
  #isDraining = false;

  constructor(deps: CreatesDependencies) {
    this.#deps = deps;
  }

  isInFlight(sandboxId: string): boolean {
    return this.#inFlight.has(sandboxId);
  }

  /** Takes no new sandboxes from now on. */
  drain(): void {
    this.#isDraining = true;
  }

  /**
   * Creates a sandbox and answers when its first command can run. When `signal` aborts (the caller is gone, so nobody
   * would learn the id) the create is undone.
   */
  async create(body: CreateSandboxBody, signal: AbortSignal, options: CreateOptions = noOptions): Promise<SandboxRow> {
    this.#refuseWhileDraining();
    return this.#create(await this.#startOf(body.template), body, options, signal, null);
  }

  /** The same for a build, from a template as its host names it. */
  async createForBuild(spec: BuildSandboxSpec, signal: AbortSignal): Promise<SandboxRow> {
    this.#refuseWhileDraining();
    const placement = await this.#deps.hosts.placeOn(spec.hostId, spec.hostTemplate);
    const body = createSandboxBodySchema.parse({ vcpus: spec.vcpus, memory_mb: spec.memoryMib, timeout_sec: 0 });
    return this.#create({ ...placement, name: spec.hostTemplate, buildId: null }, body, noOptions, signal, spec.buildId);
  }

  /** What a name means: a template of the hosts' own, or one that a build made. */
  async #startOf(name: string): Promise<Start> {
    const { hosts, resolveTemplate } = this.#deps;
    if (isHostTemplateName(name)) throw templateNotFound(name);
    const known = await hosts.find(name);
    if (known !== undefined) return { ...known, name, buildId: null };
    const built = await resolveTemplate(name);
    if (built === undefined) return { ...(await hosts.place(name)), name, buildId: null };
    return { ...(await hosts.place(built.hostTemplate, built.name)), name: built.name, buildId: built.buildId };
  }

  /** Records a sandbox; one from a build only while that is there. */
  async #insert(sandbox: NewSandbox): Promise<void> {
    const { db } = this.#deps.database;
    const { templateBuildId } = sandbox;
    if (templateBuildId === null) return void (await insertSandbox(db, sandbox));
    await db.transaction().execute(async (transaction) => {
      if (!(await lockBuild(transaction, templateBuildId))) throw templateNotFound(sandbox.template);
      await insertSandbox(transaction, sandbox);
    });
  }

  async #create(
    start: Start,
    body: CreateSandboxBody,
    options: CreateOptions,
    signal: AbortSignal,
    forBuildId: string | null,
  ): Promise<SandboxRow> {
    const { records } = this.#deps;
    const { host, template } = start;
    const id = newSandboxId();
    const accessToken = newToken();
    const log = this.#deps.log.child({ sandboxId: id, hostId: host.id });
    const inFlight = this.#begin([id], signal, log);
    try {
      await this.#insert({
        id,
        hostId: host.id,
        template: start.name,
        // What the host will decide, as far as it is known; its answer replaces it
        vcpus: body.vcpus ?? (template.vcpus || vcpusDefault),
        memoryMib: body.memory_mb ?? (template.memory_mib || memoryMibDefault),
        diskSizeMib: template.disk_size_mib,
        timeoutSec: body.timeout_sec,
        checkpointIntervalSec: body.checkpoint_interval_sec,
        accessToken,
        metadata: body.metadata,
        autoResume: body.auto_resume,
        timeCreated: new Date(),
        ...options,
        trafficToken: options.network.is_public ? null : newToken(),
        templateBuildId: start.buildId,
        forBuildId,
      });
      inFlight.recorded();
      const spec = {
        sandboxId: id,
        template: template.name,
        templateName: start.name,
        vcpus: body.vcpus ?? 0,
        memoryMib: body.memory_mb ?? 0,
        diskSizeMib: template.disk_size_mib,
        timeoutSec: body.timeout_sec,
        checkpointIntervalSec: body.checkpoint_interval_sec,
        envs: body.envs,
        accessToken,
        network: toWireEgress(options.network),
      };
      let defaults: TemplateDefaults;
      try {
        const answer = await host.call(() => host.client.createSandbox({ spec }, { timeoutMs: createTimeoutMs }));
        await records.observe(observedFrom(answer.sandbox, host.id));
        defaults = defaultsFrom(answer.sandbox?.spec?.defaults);
      } catch (error) {
        await this.#failed(id, host, error, { saysAll: false }, log);
        throw error;
      }
      const row = await this.#unlessDeleted(id, host);
      if (template.kind !== "base") records.resumed(row);
      if (forBuildId === null && row.start_path === "boot" && defaults.startCommand !== "") {
        await this.#runStartCommand(row, defaults, signal);
      }
      return row;
    } finally {
      inFlight.end();
    }
  }

  /** From memory it would run already. A sandbox in which it does not get ready is of no use to whoever asked for it. */
  async #runStartCommand(row: SandboxRow, defaults: TemplateDefaults, signal: AbortSignal): Promise<void> {
    try {
      await this.#deps.startCommand(row, defaults, signal);
    } catch (error) {
      await this.#delete(row.id);
      throw error;
    }
  }

  /** New sandboxes that go on where this one is. Throws only when none was tried; undone like a create when `signal` aborts. */
  async fork(parentId: string, body: ForkSandboxBody, signal: AbortSignal, options: ForkOptions = {}): Promise<ForkedChild[]> {
    this.#refuseWhileDraining();
    const parent = await this.#deps.records.get(parentId);
    requireNotEnded(parent, { kind: "fork" });
    const host = this.#deps.hosts.get(parent.host_id);
    const log = this.#deps.log.child({ parentId, hostId: host.id });
    const children = Array.from({ length: body.count }, () => ({ sandboxId: newSandboxId(), accessToken: newToken() }));
    const ids = children.map((child) => child.sandboxId);
    const inFlight = this.#begin(ids, signal, log);
    try {
      const timeCreated = new Date();
      await insertSandboxes(
        this.#deps.database.db,
        children.map(({ sandboxId, accessToken }) => ({
          id: sandboxId,
          hostId: host.id,
          template: parent.template,
          vcpus: parent.vcpus,
          memoryMib: parent.memory_mib,
          diskSizeMib: parent.disk_size_mib,
          timeoutSec: parent.timeout_sec,
          checkpointIntervalSec: parent.checkpoint_interval_sec,
          accessToken,
          metadata: body.metadata ?? parent.metadata,
          autoResume: parent.auto_resume,
          timeCreated,
          expirySec: options.expirySec ?? parent.expiry_sec,
          expiryAction: parent.expiry_action,
          expiryMemory: parent.expiry_memory,
          isSecure: parent.is_secure,
          network: parent.network,
          trafficToken: parent.traffic_token === null ? null : newToken(),
          templateBuildId: parent.template_build_id,
          forBuildId: null,
        })),
      );
      inFlight.recorded();
      let outcomes: readonly ForkSandboxResponse_Outcome[];
      try {
        const answer = await host.call(() => host.client.forkSandbox({ sandboxId: parentId, children }, { timeoutMs: createTimeoutMs }));
        outcomes = answer.outcomes;
      } catch (error) {
        const saysAll = error instanceof PlatformError && !outcomeUnknown.has(error.code);
        for (const id of ids) await this.#failed(id, host, error, { saysAll }, log);
        throw error;
      }
      return await Promise.all(ids.map(async (id, index) => this.#adoptChild(id, host, outcomes[index], log)));
    } finally {
      inFlight.end();
    }
  }

  async #adoptChild(id: string, host: HostLink, outcome: ForkSandboxResponse_Outcome | undefined, log: Logger): Promise<ForkedChild> {
    const said = outcome?.outcome;
    try {
      if (said?.case === "failure") throw failureFrom(said.value);
      const observed = observedFrom(said?.case === "sandbox" ? said.value : undefined, host.id);
      if (observed.id !== id) {
        throw new PlatformError("internal", "the sandbox's host answered for another child", { detail: `${observed.id} for ${id}` });
      }
      await this.#deps.records.observe(observed);
    } catch (error) {
      await this.#failed(id, host, error, { saysAll: said?.case === "failure" }, log);
      return { error: asPlatformError(error) };
    }
    try {
      const row = await this.#unlessDeleted(id, host);
      this.#deps.records.resumed(row);
      return { row };
    } catch (error) {
      return { error: asPlatformError(error) };
    }
  }

  #refuseWhileDraining(): void {
    if (this.#isDraining) throw new PlatformError("shutting_down", "the platform is shutting down", { retryAfterSec: 5 });
  }

  /** Undoes creates whose caller goes away; but not before `recorded`, because until then there is nothing to undo. */
  #begin(ids: readonly string[], signal: AbortSignal, log: Logger): { recorded(): void; end(): void } {
    for (const id of ids) this.#inFlight.add(id);
    const undo = () => {
      log.info("the caller of create is gone; undoing it");
      for (const id of ids) {
        this.#delete(id).catch((error: unknown) => log.warn({ err: error, sandboxId: id }, "could not undo a create; the reconciler will"));
      }
    };
    return {
      recorded: () => {
        signal.addEventListener("abort", undo, { once: true });
        if (signal.aborted) undo();
      },
      end: () => {
        signal.removeEventListener("abort", undo);
        for (const id of ids) this.#inFlight.delete(id);
      },
    };
  }

  async #delete(id: string): Promise<void> {
    const row = await requestDelete(this.#deps.database.db, id, new Date());
    if (row !== undefined && row.state !== "stopped") await this.#deps.records.endOnHost(id, this.#deps.hosts.get(row.host_id));
  }

  /** The delete of a sandbox may have reached the host before its create did, and found nothing to end. */
  async #unlessDeleted(id: string, host: HostLink): Promise<SandboxRow> {
    const row = await this.#deps.records.any(id);
    if (row.time_delete_requested === null) return row;
    await this.#deps.records.endOnHost(id, host);
    throw new PlatformError("create_aborted", `sandbox ${id} was deleted while it was being created`);
  }

  /** Leaves the record of a failed create as the host knows it. `saysAll`: the host said that nothing came of it. */
  async #failed(id: string, host: HostLink, error: unknown, { saysAll }: { readonly saysAll: boolean }, log: Logger): Promise<void> {
    if (!(error instanceof PlatformError)) return;
    log[error.status >= 500 ? "warn" : "info"]({ err: error, sandboxId: id }, "create failed");
    const { db } = this.#deps.database;
    const now = new Date();
    if (error.code === "create_aborted") {
      await markStopped(db, id, "deleted", now);
      return;
    }
    if (nothingRemains.has(error.code)) return forgetSandbox(db, id);
    try {
      const known = await host.getSandbox(id);
      if (known !== undefined) await this.#deps.records.observe(known);
      else if (saysAll) return await forgetSandbox(db, id);
      // Whether the host got the request at all may be unknown: what it makes of it after all is ended by the reconciler.
      if (known?.state !== "failed") await requestDelete(db, id, now);
    } catch {
      await requestDelete(db, id, now);
    }
    await markCreateFailed(db, id, error.message, now);
  }
}

function asPlatformError(error: unknown): PlatformError {
  return error instanceof PlatformError
    ? error
    : new PlatformError("internal", "the control plane failed; its log says why", { cause: error });
}
