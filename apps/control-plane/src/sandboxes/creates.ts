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
  type ExpiryAction,
  type NetworkPolicy,
  type TemplateDefaults,
} from "@roost/contract";
import type { Logger } from "@roost/kit";

import { lockBuild } from "../db/builds.ts";
import type { Db } from "../db/database.ts";
import { insertSandbox, moveCreating, type NewPlace, type NewSandbox, type SandboxRow } from "../db/sandboxes.ts";
import { lockSnapshot } from "../db/snapshots.ts";
import { wasNeverSent } from "../hosts/from-connect-error.ts";
import { createTimeoutMs, destroyTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts, Placement } from "../hosts/hosts.ts";
import { defaultsFrom, observedFrom, type HostTemplate } from "../hosts/observed.ts";
import { toWireEgress } from "../hosts/wire-egress.ts";
import { unnamed, type OperationRequest, type Operations, type RunningOperation } from "../operations/operations.ts";
import type { PlaceRequest, Placements } from "../placement/placements.ts";
import { mayTryElsewhere } from "../placement/refusals.ts";
import { templateNotFound } from "../templates/names.ts";
import { recordedAccess } from "./port-access.ts";
import type { NetworkSecrets } from "./network-secrets.ts";
import type { Newcomers } from "./newcomers.ts";
import type { SandboxRecords } from "./records.ts";

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
  readonly teamId: string;
  readonly buildId: string;
  /** The host that has the template */
  readonly hostId: string;
  /** Its name there */
  readonly hostTemplate: string;
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** A template that is a team's, or that another team lets it use. */
export interface ResolvedTemplate {
  /** Its name on hosts */
  readonly hostTemplate: string;
  /** What made it: one of the two */
  readonly buildId: string | null;
  readonly snapshotId: string | null;
  /** As the team knows it */
  readonly name: string;
}

export interface CreatesDependencies {
  readonly secrets: NetworkSecrets;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly newcomers: Newcomers;
  readonly operations: Operations;
  readonly placements: Placements;
  readonly log: Logger;
  /** What a name means to a team; undefined: neither a built template's nor a snapshot's */
  readonly resolveTemplate: (teamId: string, name: string) => Promise<ResolvedTemplate | undefined>;
  /** Starts what is to run in a sandbox that booted, and resolves when it is ready */
  readonly startCommand: (row: SandboxRow, defaults: TemplateDefaults, signal: AbortSignal) => Promise<void>;
}

/** What a new sandbox starts from. */
interface Start {
  /** Hosts that have it; at least one */
  readonly holders: readonly Placement[];
  /** As users see it */
  readonly name: string;
  /** What made it; both null: it is a base template */
  readonly buildId: string | null;
  readonly snapshotId: string | null;
}

interface Wanted {
  readonly teamId: string;
  readonly start: Start;
  readonly body: CreateSandboxBody;
  readonly options: CreateOptions;
  /** The build it works for; null: it is a user's */
  readonly forBuildId: string | null;
}

/** Hosts that one create is tried on: where so many refuse, the next one hardly has room */
const hostsTriedMax = 4;

/** A create that did not come about on a host, and those that it was tried on before. */
interface Refused {
  readonly host: HostLink;
  readonly error: unknown;
  readonly before: readonly HostLink[];
}

/** Undoes a transaction that was to move a create. */
class NotMovedError extends Error {
  override readonly name = "NotMovedError";
}

/**
 * New sandboxes from templates. Operation, record and reservation come first, in one transaction; then the host acts. Nothing of a create is remembered but that: what its host made of it
 * can be asked at any time, because creating is idempotent by the sandbox's id.
 */
export class Creates {
  readonly #deps: CreatesDependencies;

  constructor(deps: CreatesDependencies) {
    this.#deps = deps;
  }

  /**
   * Creates a sandbox and answers when its first command can run. When `signal` aborts (the caller is gone, so nobody
   * would learn the id) the create is undone.
   */
  async create(
    teamId: string,
    body: CreateSandboxBody,
    signal: AbortSignal,
    options: CreateOptions = noOptions,
    request: OperationRequest = unnamed(teamId),
  ): Promise<SandboxRow> {
    this.#deps.newcomers.refuseWhileDraining();
    const start = await this.#startOf(teamId, body.template);
    const { mask_request_host } = body.ports ?? options.network;
    const network = { ...options.network, ...body.network, mask_request_host };
    return this.#run({ teamId, start, body, options: { ...options, network }, forBuildId: null }, signal, request);
  }

  /** The same for a build, from a template as its host names it. */
  async createForBuild(spec: BuildSandboxSpec, signal: AbortSignal): Promise<SandboxRow> {
    this.#deps.newcomers.refuseWhileDraining();
    const { teamId, buildId } = spec;
    const holders = [await this.#deps.hosts.placeOn(spec.hostId, spec.hostTemplate)];
    const body = createSandboxBodySchema.parse({ vcpus: spec.vcpus, memory_mb: spec.memoryMib, timeout_sec: 0 });
    const start = { holders, name: spec.hostTemplate, buildId: null, snapshotId: null };
    return this.#run({ teamId, start, body, options: noOptions, forBuildId: buildId }, signal, unnamed(teamId));
  }

  /** What a name means to a team: a template of the hosts' own, a snapshot, or what a build made. */
  async #startOf(teamId: string, name: string): Promise<Start> {
    const { hosts, resolveTemplate } = this.#deps;
    if (isHostTemplateName(name)) throw templateNotFound(name);
    const base = await hosts.findBase(name, teamId);
    if (base !== undefined) return { holders: base, name, buildId: null, snapshotId: null };
    const resolved = await resolveTemplate(teamId, name);
    if (resolved === undefined) return { holders: await hosts.placeBase(name, teamId), name, buildId: null, snapshotId: null };
    return { ...resolved, holders: await hosts.place(resolved.hostTemplate, resolved.name, teamId) };
  }

  async #run(wanted: Wanted, signal: AbortSignal, request: OperationRequest): Promise<SandboxRow> {
    for (const { template } of wanted.start.holders) requireSizes(template, wanted.start.name, wanted.body);
    const id = newSandboxId();
    const log = this.#deps.log.child({ sandboxId: id });
    const inFlight = this.#deps.newcomers.begin([id], signal, log);
    try {
      return await this.#deps.operations.run("sandbox.create", request, async (operation) => {
        const accessToken = newToken();
        const placement = await this.#record(id, accessToken, wanted, signal, operation);
        inFlight.recorded();
        return this.#start(id, accessToken, wanted, placement, signal, log.child({ hostId: placement.host.id, operationId: operation.id }));
      });
    } finally {
      inFlight.end();
    }
  }

  /** Operation, record and reservation, on a host that has room. */
  async #record(id: string, accessToken: string, wanted: Wanted, signal: AbortSignal, operation: RunningOperation): Promise<Placement> {
    const { teamId, start, body, options, forBuildId } = wanted;
    const { holder } = await this.#deps.placements.place(
      placeRequestOf(id, wanted),
      start.holders,
      async (transaction, placement) => {
        // Of builds' sandboxes users see nothing, so the operation is the build's
        const subject = forBuildId === null ? ({ kind: "sandbox", id } as const) : ({ kind: "build", id: forBuildId } as const);
        await operation.begin(transaction, { subject, made: [id] });
        await insertFromTemplate(transaction, {
          id,
          teamId,
          hostId: placement.host.id,
          template: start.name,
          ...sizesOn(placement, body),
          timeoutSec: body.timeout_sec,
          checkpointIntervalSec: body.checkpoint_interval_sec,
          accessToken,
          metadata: body.metadata,
          autoResume: body.auto_resume,
          timeCreated: this.#deps.records.now(),
          ...options,
          network: this.#deps.secrets.seal(options.network, id),
          portAccess: body.ports === undefined ? undefined : recordedAccess(body.ports),
          trafficToken: options.network.is_public ? null : newToken(),
          hostTags: body.host_tags,
          templateBuildId: start.buildId,
          templateSnapshotId: start.snapshotId,
          forBuildId,
        });
      },
      signal,
    );
    return holder;
  }

  /**
   * The next host after one that refused, or never heard of it, with the record there; undefined when there is none, or the sandbox was deleted or ended meanwhile. Should the one that
   * refused have something of it nevertheless, that is ended.
   */
  async #elsewhere(id: string, wanted: Wanted, refused: Refused, log: Logger): Promise<Placement | undefined> {
    const { placements, records } = this.#deps;
    const { host, error, before } = refused;
    if (!(error instanceof PlatformError) || !mayTryElsewhere(error) || before.length >= hostsTriedMax - 1) return undefined;
    placements.refusedBy(host);
    const others = wanted.start.holders.filter((holder) => holder.host !== host && !before.includes(holder.host));
    const next = await placements
      .placeElsewhere(placeRequestOf(id, wanted), others, async (transaction, placement) => {
        const place = { hostId: placement.host.id, ...sizesOn(placement, wanted.body) };
        if (!(await moveCreating(transaction, id, host.id, place, records.now())))
          throw new NotMovedError("it is not to be made there any more");
      })
      .catch((failure: unknown) => {
        if (failure instanceof NotMovedError) return undefined;
        throw failure;
      });
    if (next === undefined) return undefined;
    log.info({ err: error, nextHostId: next.host.id }, "a host refused a sandbox; another one is asked");
    records.changedHere(id);
    if (!wasNeverSent(error)) {
      void host
        .call(() => host.client.destroySandbox({ sandboxId: id, reason: "another host makes it" }, { timeoutMs: destroyTimeoutMs }))
        .catch((failure: unknown) => log.debug({ err: failure }, "a host that refused a sandbox could not be asked to forget it"));
    }
    return next;
  }

  async #start(
    id: string,
    accessToken: string,
    wanted: Wanted,
    { host, template }: Placement,
    signal: AbortSignal,
    log: Logger,
    before: readonly HostLink[] = [],
  ): Promise<SandboxRow> {
    const { start, body, options, forBuildId } = wanted;
    const { newcomers, records } = this.#deps;
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
      const next = await this.#elsewhere(id, wanted, { host, error, before }, log);
      if (next !== undefined) {
        return this.#start(id, accessToken, wanted, next, signal, log.child({ hostId: next.host.id }), [...before, host]);
      }
      await newcomers.failed(id, host, error, { saysAll: false }, log);
      throw error;
    }
    const row = await newcomers.unlessDeleted(id, host);
    if (template.kind !== "base") records.resumed(row);
    if (forBuildId === null && row.start_path === "boot" && defaults.startCommand !== "") {
      await this.#runStartCommand(row, defaults, signal);
    }
    return row;
  }

  /** From memory it would run already. A sandbox in which it does not get ready is of no use to whoever asked for it. */
  async #runStartCommand(row: SandboxRow, defaults: TemplateDefaults, signal: AbortSignal): Promise<void> {
    try {
      await this.#deps.startCommand(row, defaults, signal);
    } catch (error) {
      await this.#deps.newcomers.delete(row.id);
      throw error;
    }
  }
}

/** What the host will decide, as far as it is known; its answer replaces it. */
function sizesOn({ template }: Placement, body: CreateSandboxBody): Omit<NewPlace, "hostId"> {
  return {
    vcpus: body.vcpus ?? (template.vcpus || vcpusDefault),
    memoryMib: body.memory_mb ?? (template.memory_mib || memoryMibDefault),
    diskSizeMib: template.disk_size_mib,
  };
}

function placeRequestOf(id: string, { teamId, start, body, forBuildId }: Wanted): PlaceRequest {
  const [first] = start.holders;
  if (first === undefined) throw templateNotFound(start.name);
  const { vcpus, memoryMib, diskSizeMib: diskMib } = sizesOn(first, body);
  return { sandboxId: id, teamId, count: 1, vcpus, memoryMib, diskMib, tags: body.host_tags, isQuotaFree: forBuildId !== null };
}

/** Records a sandbox; one from a build or snapshot only while that is there. */
async function insertFromTemplate(transaction: Db, sandbox: NewSandbox): Promise<void> {
  const { templateBuildId, templateSnapshotId } = sandbox;
  const isThere =
    (templateBuildId === null || (await lockBuild(transaction, templateBuildId))) &&
    (templateSnapshotId === null || (await lockSnapshot(transaction, templateSnapshotId)));
  if (!isThere) throw templateNotFound(sandbox.template);
  await insertSandbox(transaction, sandbox);
}

/** Memory fits only what it was saved from. The host would say so, too, but of the name that it knows the template by. */
function requireSizes(template: HostTemplate, name: string, asked: Pick<CreateSandboxBody, "vcpus" | "memory_mb">): void {
  const isOther = (wanted: number | undefined, own: number) => own !== 0 && wanted !== undefined && wanted !== own;
  if (!isOther(asked.vcpus, template.vcpus) && !isOther(asked.memory_mb, template.memory_mib)) return;
  throw new PlatformError(
    "template_size_fixed",
    `template "${name}" was saved with its memory, so its sandboxes have vcpus ${template.vcpus} and memory_mb ${template.memory_mib}; ` +
      "leave both out, or make the snapshot with memory=false",
  );
}
