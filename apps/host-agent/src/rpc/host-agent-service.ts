import { create } from "@bufbuild/protobuf";
import { type ServiceImpl } from "@connectrpc/connect";
import {
  forkCountMax,
  metricsRanges,
  PlatformError,
  templateDefaultsSchema,
  templateNameSchema,
  timeoutSecMax,
  type MetricsRange,
} from "@roost/contract";
import {
  FailureSchema,
  type HostAgentService,
  WatchSandboxesResponse_KeepAliveSchema,
  WatchSandboxesResponse_SyncedSchema,
  WatchSandboxesResponseSchema,
  type GetHostResponse,
  type WatchSandboxesResponse,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { MiB, type Logger } from "@roost/kit";
import { z } from "zod";

import type { Importer } from "../import/importer.ts";
import type { LogStore } from "../logs/log-store.ts";
import type { Sampler } from "../metrics/sampler.ts";
import type { BasedOn } from "../sandbox/admit.ts";
import type { HostEvents } from "../sandbox/host-events.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import type { SandboxRecord } from "../sandbox/sandbox-record.ts";
import type { Subscription, WatchEvent, Watchers } from "../sandbox/watchers.ts";
import { templateKinds } from "../templates/template-store.ts";
import type { Templates } from "../templates/templates.ts";
import { toConnectError } from "./connect-error.ts";
import { answerImport, toWireImported } from "./import-answer.ts";
import { answerLogs } from "./logs-answer.ts";
import { createMoveService, type MoveParts } from "./move-service.ts";
import {
  egressPolicy,
  fromWireDefaults,
  fromWireSpec,
  toWireBase,
  toWireEvent,
  toWireGeneration,
  toWireSandbox,
  toWireTemplate,
} from "./messages.ts";

/** A watcher hears something at least this often, in `ms`: silence then means a dead connection. */
const keepAliveMs = 15_000;
const consoleBytesDefault = 64 * 1024;
const consoleBytesMax = 1 * MiB;

export interface ServiceParts {
  /** Throws until the host agent has taken over what an earlier one left */
  readonly running: () => {
    readonly manager: SandboxManager;
    readonly templates: Templates;
    readonly importer: Importer;
    readonly sampler: Sampler;
  } & MoveParts;
  readonly watchers: Watchers<SandboxRecord>;
  readonly events: HostEvents;
  readonly logs: LogStore;
  readonly describeHost: () => Promise<Omit<GetHostResponse, "$typeName" | "$unknown">>;
  readonly log: Logger;
}

/** `hostagent.v1` over the sandbox manager: maps messages and errors, decides nothing. */
export function createHostAgentService(parts: ServiceParts): ServiceImpl<typeof HostAgentService> {
  const { log } = parts;
  const answer = async <Response>(work: (running: ReturnType<ServiceParts["running"]>) => Promise<Response>): Promise<Response> => {
    try {
      return await work(parts.running());
    } catch (error) {
      throw toConnectError(error, log);
    }
  };
  return {
    getHost: () => answer(async () => parts.describeHost()),
    createSandbox: (request) =>
      answer(async ({ manager }) => {
        if (request.spec === undefined) throw new PlatformError("request_invalid", "spec is required");
        return { sandbox: toWireSandbox(await manager.create(fromWireSpec(request.spec))) };
      }),
    destroySandbox: (request) =>
      answer(async ({ manager }) => {
        if (manager.has(request.sandboxId)) parts.logs.note(request.sandboxId, "sandbox.stopping", request.reason);
        await manager.destroy(request.sandboxId);
        return {};
      }),
    getSandbox: (request) => answer(async ({ manager }) => ({ sandbox: toWireSandbox(manager.get(request.sandboxId).record) })),
    listSandboxes: () => answer(async ({ manager }) => ({ sandboxes: manager.list().map((sandbox) => toWireSandbox(sandbox.record)) })),
    watchSandboxes: (request, context) => watch(parts, request.lastEventId, context.signal),
    pauseSandbox: (request) =>
      answer(async ({ manager }) => {
        const sandbox = manager.get(request.sandboxId);
        if (sandbox.state === "running") parts.logs.note(request.sandboxId, "sandbox.pausing", request.reason);
        return { sandbox: toWireSandbox(await sandbox.pause({ memory: request.memory ?? true, ...basedOn(request) })) };
      }),
    resumeSandbox: (request) =>
      answer(async ({ manager }) => {
        if (request.timeoutSec !== undefined) checkTimeoutSec(request.timeoutSec);
        const record = await manager.get(request.sandboxId).resume({
          memory: request.memory ?? true,
          isAutomatic: request.automatic,
          ...basedOn(request),
          ...(request.timeoutSec === undefined ? {} : { timeoutSec: request.timeoutSec }),
        });
        return { sandbox: toWireSandbox(record) };
      }),
    checkpointSandbox: (request) =>
      answer(async ({ manager }) => {
        const { record, generation } = await manager.get(request.sandboxId).checkpoint(basedOn(request));
        return { sandbox: toWireSandbox(record), generation: await toWireGeneration(generation, record.currentGeneration) };
      }),
    rollbackSandbox: (request) =>
      answer(async ({ manager }) => ({
        sandbox: toWireSandbox(await manager.get(request.sandboxId).rollBack(request.generation, basedOn(request))),
      })),
    listGenerations: (request) =>
      answer(async ({ manager }) => {
        const sandbox = manager.get(request.sandboxId);
        const { currentGeneration } = sandbox.record;
        const generations = (await sandbox.generations()).reverse();
        return { generations: await Promise.all(generations.map((generation) => toWireGeneration(generation, currentGeneration))) };
      }),
    forkSandbox: (request) =>
      answer(async ({ manager }) => {
        if (request.children.length < 1 || request.children.length > forkCountMax) {
          throw new PlatformError(
            "request_invalid",
            `a fork makes 1 to ${forkCountMax} sandboxes; ${request.children.length} were asked for`,
          );
        }
        const results = await manager.fork(request.sandboxId, request.children);
        return { outcomes: results.map((result, index) => toWireOutcome(result, request.children[index]?.sandboxId ?? "")) };
      }),
    pauseAll: () =>
      answer(async ({ manager }) => {
        const { paused, failed } = await manager.pauseAll();
        return { pausedSandboxIds: paused, failed: failed.map(({ sandboxId, error }) => toWireFailure(sandboxId, error)) };
      }),
    createTemplate: (request) =>
      answer(async ({ manager, templates }) => {
        const parsed = createTemplateSchema.safeParse({
          ...request,
          kind: request.kind || "snapshot",
          defaults: fromWireDefaults(request.defaults),
        });
        if (!parsed.success) {
          const [issue] = parsed.error.issues;
          throw new PlatformError("request_invalid", `${issue?.path.join(".") ?? "the template"}: ${issue?.message ?? "is not valid"}`);
        }
        const { name, kind, memory, replace, defaults } = parsed.data;
        const asked = { kind, memory, replace, ...(defaults === undefined ? {} : { defaults }) };
        const template = await manager.createTemplate(request.sandboxId, name, asked);
        return { template: toWireTemplate(template, await templates.describe(template)) };
      }),
    importImage: (request, context) => answerImport(request, () => parts.running().importer, context.signal, log),
    putArchivePart: ({ archiveId, offset, data, isLast }) =>
      answer(async ({ importer }) => {
        await importer.putArchivePart({ archiveId, offset: Number(offset), data, isLast });
        return {};
      }),
    copyTemplate: (request) =>
      answer(async ({ templates }) => {
        const template = await templates.copy(request.from, request.name);
        return { template: toWireTemplate(template, await templates.describe(template)) };
      }),
    listTemplates: () => answer(async ({ templates, importer }) => ({ templates: await describeTemplates(templates, importer) })),
    getTemplate: (request) =>
      answer(async ({ templates, importer }) => {
        const imported = importer.get(request.name);
        if (imported !== undefined) return { template: toWireImported(imported) };
        const base = (await templates.bases()).find((each) => each.name === request.name);
        if (base !== undefined) return { template: toWireBase(base) };
        const template = templates.snapshot(request.name);
        return { template: toWireTemplate(template, await templates.describe(template)) };
      }),
    deleteTemplate: (request) =>
      answer(async ({ manager }) => {
        await manager.deleteTemplate(request.name);
        return {};
      }),
    pingSandbox: (request) =>
      answer(async ({ manager }) => {
        manager.get(request.sandboxId).touch();
        return {};
      }),
    setTimeout: (request) =>
      answer(async ({ manager }) => {
        checkTimeoutSec(request.timeoutSec);
        return { sandbox: toWireSandbox(await manager.get(request.sandboxId).setTimeoutSec(request.timeoutSec, basedOn(request))) };
      }),
    setNetwork: (request) =>
      answer(async ({ manager }) => {
        const network = egressPolicy(request.network);
        return { sandbox: toWireSandbox(await manager.get(request.sandboxId).setNetwork(network, basedOn(request))) };
      }),
    getMetrics: (request) =>
      answer(async ({ manager, sampler }) => {
        const range = request.range === "" ? "10m" : request.range;
        if (range !== "all" && !isRange(range))
          throw new PlatformError("request_invalid", `range must be all or one of ${Object.keys(metricsRanges).join(", ")}`);
        const sandbox = manager.get(request.sandboxId);
        if (!request.asKnown) await sampler.refreshGuest(sandbox);
        const { metrics } = sandbox;
        const points = range === "all" ? metrics.allPoints() : metrics.points(range, Math.trunc(Date.now() / 1_000));
        return {
          points: points.map((point) => ({
            timeUnixSec: BigInt(point.timeUnixSec),
            cpuPercent: point.cpuPercent,
            memoryBytes: wireBytes(point.memoryBytes),
            memoryCacheBytes: wireBytes(point.cacheBytes),
            diskBytes: wireBytes(point.diskBytes),
          })),
          memoryTotalBytes: wireBytes(metrics.guest?.mem_total ?? sandbox.record.spec.memoryMib * MiB),
          diskTotalBytes: wireBytes(metrics.guest?.disk_total ?? 0),
        };
      }),
    getConsole: (request) =>
      answer(async ({ manager }) => {
        const bytesMax = request.bytesMax === 0 ? consoleBytesDefault : Math.min(request.bytesMax, consoleBytesMax);
        return { data: await manager.get(request.sandboxId).console(bytesMax) };
      }),
    getLogs: (request) => answer(async ({ manager }) => ({ entries: await answerLogs(request, manager, parts.logs) })),
    ...createMoveService(answer, parts.events),
  };
}

const createTemplateSchema = z.object({
  name: templateNameSchema,
  kind: z.enum(templateKinds),
  memory: z.boolean().default(true),
  replace: z.boolean(),
  defaults: templateDefaultsSchema.optional(),
});

function basedOn({ revision }: { readonly revision?: bigint | undefined }): BasedOn {
  return revision === undefined ? {} : { revision: Number(revision) };
}

function checkTimeoutSec(timeoutSec: number): void {
  if (timeoutSec <= timeoutSecMax) return;
  throw new PlatformError("request_invalid", `timeout_sec ${timeoutSec} is above the limit of ${timeoutSecMax}`);
}

/** Of a template that is damaged, or was removed just now. */
const unknownContent = { digest: "", sizeBytes: 0 };

/** All templates of a host, by name. */
export async function describeTemplates(templates: Templates, importer: Importer) {
  const bases = [...(await templates.bases()).map(toWireBase), ...importer.list().map(toWireImported)];
  const made: ReturnType<typeof toWireTemplate>[] = [];
  for (const template of templates.snapshots()) {
    made.push(toWireTemplate(template, await templates.describe(template).catch(() => unknownContent)));
  }
  return [...bases, ...made].sort((one, other) => (one.name < other.name ? -1 : 1));
}

function toWireOutcome(result: PromiseSettledResult<SandboxRecord>, sandboxId: string) {
  return result.status === "fulfilled"
    ? { outcome: { case: "sandbox" as const, value: toWireSandbox(result.value) } }
    : { outcome: { case: "failure" as const, value: toWireFailure(sandboxId, result.reason) } };
}

function toWireFailure(sandboxId: string, error: unknown) {
  const known =
    error instanceof PlatformError ? error : new PlatformError("internal", "something went wrong; the host agent's log says what");
  return create(FailureSchema, { sandboxId, code: known.code, message: known.message });
}

/** The guest said these numbers: whatever they are, they become a number that the wire can carry. */
function wireBytes(value: number): bigint {
  return Number.isFinite(value) && value > 0 ? BigInt(Math.min(Math.trunc(value), Number.MAX_SAFE_INTEGER)) : 0n;
}

function isRange(range: string): range is MetricsRange {
  return Object.hasOwn(metricsRanges, range);
}

async function* watch(parts: ServiceParts, lastEventId: string, signal: AbortSignal): AsyncGenerator<WatchSandboxesResponse> {
  let subscription: Subscription<SandboxRecord> | undefined;
  try {
    const { manager } = parts.running();
    // Nothing can happen between these two: every later change comes after the listing, and none comes twice
    subscription = parts.watchers.subscribe(signal);
    const listed = manager.list().map((sandbox) => sandbox.record);
    const missed = parts.events.since(lastEventId);
    for (const view of listed) yield toWireChange({ kind: "sandbox", view });
    for (const event of missed) yield toWireChange({ kind: "event", event });
    yield create(WatchSandboxesResponseSchema, { event: { case: "synced", value: create(WatchSandboxesResponse_SyncedSchema) } });
    for await (const change of subscription.events(keepAliveMs)) yield toWireChange(change);
  } catch (error) {
    throw toConnectError(error, parts.log);
  } finally {
    subscription?.close();
  }
}

function toWireChange(event: WatchEvent<SandboxRecord> | undefined): WatchSandboxesResponse {
  if (event === undefined) {
    return create(WatchSandboxesResponseSchema, { event: { case: "keepalive", value: create(WatchSandboxesResponse_KeepAliveSchema) } });
  }
  if (event.kind === "event") return create(WatchSandboxesResponseSchema, { event: { case: "happened", value: toWireEvent(event.event) } });
  if (event.kind === "removed")
    return create(WatchSandboxesResponseSchema, { event: { case: "removedSandboxId", value: event.sandboxId } });
  return create(WatchSandboxesResponseSchema, { event: { case: "sandbox", value: toWireSandbox(event.view) } });
}
