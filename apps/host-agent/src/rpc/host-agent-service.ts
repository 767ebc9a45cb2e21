import { create } from "@bufbuild/protobuf";
import { type ServiceImpl } from "@connectrpc/connect";
import { metricsRanges, PlatformError, timeoutSecMax, type MetricsRange } from "@roost/contract";
import {
  type HostAgentService,
  WatchSandboxesResponse_KeepAliveSchema,
  WatchSandboxesResponse_SyncedSchema,
  WatchSandboxesResponseSchema,
  type GetHostResponse,
  type WatchSandboxesResponse,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { MiB, type Logger } from "@roost/kit";

import type { Sampler } from "../metrics/sampler.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import type { SandboxRecord } from "../sandbox/sandbox-record.ts";
import type { Subscription, WatchEvent, Watchers } from "../sandbox/watchers.ts";
import { toConnectError } from "./connect-error.ts";
import { fromWireSpec, toWireSandbox } from "./messages.ts";

/** A watcher hears something at least this often, in `ms`: silence then means a dead connection. */
const keepAliveMs = 15_000;
const consoleBytesDefault = 64 * 1024;
const consoleBytesMax = 1 * MiB;

export interface ServiceParts {
  /** Throws until the host agent has taken over what an earlier one left */
  readonly running: () => { readonly manager: SandboxManager; readonly sampler: Sampler };
  readonly watchers: Watchers<SandboxRecord>;
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
        await manager.destroy(request.sandboxId);
        return {};
      }),
    getSandbox: (request) => answer(async ({ manager }) => ({ sandbox: toWireSandbox(manager.get(request.sandboxId).record) })),
    listSandboxes: () => answer(async ({ manager }) => ({ sandboxes: manager.list().map((sandbox) => toWireSandbox(sandbox.record)) })),
    watchSandboxes: (_request, context) => watch(parts, context.signal),
    pingSandbox: (request) =>
      answer(async ({ manager }) => {
        manager.get(request.sandboxId).touch();
        return {};
      }),
    setTimeout: (request) =>
      answer(async ({ manager }) => {
        if (request.timeoutSec > timeoutSecMax) {
          throw new PlatformError("request_invalid", `timeout_sec ${request.timeoutSec} is above the limit of ${timeoutSecMax}`);
        }
        return { sandbox: toWireSandbox(await manager.get(request.sandboxId).setTimeoutSec(request.timeoutSec)) };
      }),
    getMetrics: (request) =>
      answer(async ({ manager, sampler }) => {
        const range = request.range === "" ? "10m" : request.range;
        if (!isRange(range)) throw new PlatformError("request_invalid", `range must be one of ${Object.keys(metricsRanges).join(", ")}`);
        const sandbox = manager.get(request.sandboxId);
        await sampler.refreshGuest(sandbox);
        return {
          points: sandbox.metrics.points(range, Math.trunc(Date.now() / 1_000)).map((point) => ({
            timeUnixSec: BigInt(point.timeUnixSec),
            cpuPercent: point.cpuPercent,
            memoryBytes: wireBytes(point.memoryBytes),
            diskBytes: wireBytes(point.diskBytes),
          })),
          memoryTotalBytes: wireBytes(sandbox.metrics.guest?.mem_total ?? sandbox.record.spec.memoryMib * MiB),
          diskTotalBytes: wireBytes(sandbox.metrics.guest?.disk_total ?? 0),
        };
      }),
    getConsole: (request) =>
      answer(async ({ manager }) => {
        const bytesMax = request.bytesMax === 0 ? consoleBytesDefault : Math.min(request.bytesMax, consoleBytesMax);
        return { data: await manager.get(request.sandboxId).console(bytesMax) };
      }),
  };
}

/** The guest said these numbers: whatever they are, they become a number that the wire can carry. */
function wireBytes(value: number): bigint {
  return Number.isFinite(value) && value > 0 ? BigInt(Math.min(Math.trunc(value), Number.MAX_SAFE_INTEGER)) : 0n;
}

function isRange(range: string): range is MetricsRange {
  return Object.hasOwn(metricsRanges, range);
}

async function* watch(parts: ServiceParts, signal: AbortSignal): AsyncGenerator<WatchSandboxesResponse> {
  let subscription: Subscription<SandboxRecord> | undefined;
  try {
    const { manager } = parts.running();
    // Nothing can happen between these two: every later change comes after the listing, and none comes twice
    subscription = parts.watchers.subscribe(signal);
    const listed = manager.list().map((sandbox) => sandbox.record);
    for (const view of listed) yield toWireEvent({ kind: "sandbox", view });
    yield create(WatchSandboxesResponseSchema, { event: { case: "synced", value: create(WatchSandboxesResponse_SyncedSchema) } });
    for await (const change of subscription.events(keepAliveMs)) yield toWireEvent(change);
  } catch (error) {
    throw toConnectError(error, parts.log);
  } finally {
    subscription?.close();
  }
}

function toWireEvent(event: WatchEvent<SandboxRecord> | undefined): WatchSandboxesResponse {
  if (event === undefined) {
    return create(WatchSandboxesResponseSchema, { event: { case: "keepalive", value: create(WatchSandboxesResponse_KeepAliveSchema) } });
  }
  if (event.kind === "removed")
    return create(WatchSandboxesResponseSchema, { event: { case: "removedSandboxId", value: event.sandboxId } });
  return create(WatchSandboxesResponseSchema, { event: { case: "sandbox", value: toWireSandbox(event.view) } });
}
