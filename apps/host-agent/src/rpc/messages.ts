import { create, type MessageInitShape } from "@bufbuild/protobuf";
import {
  PlatformError,
  type EgressLimits,
  type EgressPolicy,
  type EgressProxy,
  type SandboxState,
  type TemplateDefaults,
} from "@roost/contract";
import {
  EgressPolicySchema,
  type EgressLimitsSchema,
  EventSchema,
  GenerationSchema,
  SandboxSchema,
  SandboxSpecSchema,
  SandboxState as WireState,
  TemplateSchema,
  type EgressPolicy as WireEgressPolicy,
  type Event as WireEvent,
  type Generation as WireGeneration,
  type Sandbox as WireSandbox,
  type SandboxSpec as WireSpec,
  type Template as WireTemplate,
  type TemplateDefaults as WireDefaults,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { BaseTemplate } from "../images/image-catalog.ts";
import type { Generation } from "../memory/image-folder.ts";
import { occupiedBytes } from "../memory/occupied-bytes.ts";
import type { HostEvent } from "../sandbox/host-events.ts";
import { egressPolicySchema, type AskedSpec, type SandboxRecord } from "../sandbox/sandbox-record.ts";
import type { Template } from "../templates/template-store.ts";
import type { TemplateDescription } from "../templates/templates.ts";

const wireStates: Readonly<Record<SandboxState, WireState>> = {
  creating: WireState.CREATING,
  running: WireState.RUNNING,
  pausing: WireState.PAUSING,
  paused: WireState.PAUSED,
  resuming: WireState.RESUMING,
  snapshotting: WireState.SNAPSHOTTING,
  stopping: WireState.STOPPING,
  stopped: WireState.STOPPED,
  failed: WireState.FAILED,
};

export function toWireSandbox(record: SandboxRecord): WireSandbox {
  const { spec, vmExit } = record;
  return create(SandboxSchema, {
    spec: create(SandboxSpecSchema, { ...spec, network: toWireEgress(spec.network) }),
    state: wireStates[record.state],
    generation: BigInt(record.revision),
    timeCreatedMs: BigInt(record.timeCreatedMs),
    timeLastActiveMs: BigInt(record.timeLastActiveMs),
    versions: record.versions,
    startPath: record.startPath ?? "",
    currentGeneration: record.currentGeneration ?? 0,
    hasMemory: record.hasMemory,
    ...(record.timeStartedMs === null ? {} : { timeStartedMs: BigInt(record.timeStartedMs) }),
    ...(record.timePausedMs === null ? {} : { timePausedMs: BigInt(record.timePausedMs) }),
    ...(record.transit === null ? {} : { transit: { moveId: record.transit.moveId, arriving: record.transit.arriving } }),
    ...(record.notice === null ? {} : { notice: record.notice }),
    ...(record.failureReason === null ? {} : { failureReason: record.failureReason }),
    ...(record.stopReason === null ? {} : { stopReason: record.stopReason }),
    ...(vmExit === null
      ? {}
      : {
          vmExit: {
            consoleTail: vmExit.consoleTail,
            ...(vmExit.exitCode === null ? {} : { exitCode: vmExit.exitCode }),
            ...(vmExit.signal === null ? {} : { signal: vmExit.signal }),
          },
        }),
  });
}

export async function toWireGeneration(generation: Generation, current: number | null): Promise<WireGeneration> {
  const { manifest, number } = generation;
  return create(GenerationSchema, {
    number,
    kind: manifest.kind === "template" ? "start" : manifest.kind,
    timeCreatedMs: BigInt(manifest.timeCreatedMs),
    hasMemory: manifest.memory !== null,
    sizeBytes: BigInt(await occupiedBytes(generation)),
    isCurrent: number === current,
  });
}

export function toWireEvent(event: HostEvent): WireEvent {
  return create(EventSchema, {
    eventId: event.id,
    timeMs: BigInt(event.timeMs),
    kind: event.kind,
    sandboxId: event.sandboxId ?? "",
    template: event.template ?? "",
    message: event.message,
    detail: event.detail,
  });
}

export function toWireBase(base: BaseTemplate): WireTemplate {
  return create(TemplateSchema, { name: base.name, digest: base.digest, diskSizeMib: base.diskSizeMib, kind: "base" });
}

export function toWireTemplate({ record }: Template, { digest, sizeBytes }: TemplateDescription): WireTemplate {
  return create(TemplateSchema, {
    name: record.name,
    digest,
    diskSizeMib: record.diskSizeMib,
    timeCreatedMs: BigInt(record.timeCreatedMs),
    sourceSandboxId: record.sourceSandboxId,
    hasMemory: record.sizes !== null,
    vcpus: record.sizes?.vcpus ?? 0,
    memoryMib: record.sizes?.memoryMib ?? 0,
    sizeBytes: BigInt(sizeBytes),
    kind: record.kind,
    defaults: record.defaults,
  });
}

export function fromWireSpec(spec: WireSpec): AskedSpec {
  return {
    sandboxId: spec.sandboxId,
    template: spec.template,
    templateName: spec.templateName,
    vcpus: spec.vcpus,
    memoryMib: spec.memoryMib,
    diskSizeMib: spec.diskSizeMib,
    timeoutSec: spec.timeoutSec,
    checkpointIntervalSec: spec.checkpointIntervalSec,
    envs: spec.envs,
    accessToken: spec.accessToken,
    network: fromWireEgress(spec.network),
    defaults: fromWireDefaults(spec.defaults),
  };
}

export function fromWireDefaults(defaults: WireDefaults | undefined): TemplateDefaults | undefined {
  if (defaults === undefined) return undefined;
  const { user, workdir, envs, startCommand, readyCommand } = defaults;
  return { user, workdir, envs, startCommand, readyCommand };
}

/** What is asked of a sandbox that is there, checked. Throws `request_invalid`. */
export function egressPolicy(policy: WireEgressPolicy | undefined): AskedSpec["network"] {
  const parsed = egressPolicySchema.safeParse(fromWireEgress(policy));
  if (!parsed.success) throw new PlatformError("request_invalid", `network: ${parsed.error.issues[0]?.message ?? "is not valid"}`);
  return parsed.data;
}

function fromWireEgress(policy: WireEgressPolicy | undefined): AskedSpec["network"] {
  const proxy = policy?.proxy;
  return {
    allowOut: policy?.allowOut ?? [],
    denyOut: policy?.denyOut ?? [],
    proxy:
      proxy === undefined
        ? null
        : {
            protocol: proxy.protocol as EgressProxy["protocol"], // checked with everything else, by whoever takes it
            address: proxy.address,
            ...(proxy.username === undefined ? {} : { username: proxy.username }),
            ...(proxy.password === undefined ? {} : { password: proxy.password }),
          },
    rules: Object.fromEntries(Object.entries(policy?.rules ?? {}).map(([domain, { headers }]) => [domain, { headers }])),
    limits: {
      outMbit: askedLimit(policy?.limits?.outMbit),
      inMbit: askedLimit(policy?.limits?.inMbit),
      connections: askedLimit(policy?.limits?.connections),
      connectionsPerSec: askedLimit(policy?.limits?.connectionsPerSec),
    },
  };
}

/** On the wire 0 means the host's. */
function askedLimit(limit = 0): number | null {
  return limit === 0 ? null : limit;
}

/** Without the password of its proxy, and without rules for headers, whose values are secret: these are never told. */
function toWireEgress({ allowOut, denyOut, proxy, limits }: EgressPolicy): WireEgressPolicy {
  const { password: _, ...shown } = proxy ?? {};
  return create(EgressPolicySchema, {
    allowOut: [...allowOut],
    denyOut: [...denyOut],
    ...(proxy === null ? {} : { proxy: shown }),
    limits: toWireLimits(limits),
  });
}

function toWireLimits({ outMbit, inMbit, connections, connectionsPerSec }: EgressLimits): MessageInitShape<typeof EgressLimitsSchema> {
  return {
    outMbit: outMbit ?? 0,
    inMbit: inMbit ?? 0,
    connections: connections ?? 0,
    connectionsPerSec: connectionsPerSec ?? 0,
  };
}
