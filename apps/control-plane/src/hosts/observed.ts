import { createHash } from "node:crypto";

import {
  SandboxState as WireState,
  type Event as WireEvent,
  type Sandbox as WireSandbox,
  type Template as WireTemplate,
  type TemplateDefaults as WireDefaults,
  type GetHostResponse,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import {
  isEventKind,
  nameLengthMax,
  noTemplateDefaults,
  noticeLengthMax,
  PlatformError,
  sandboxIdPattern,
  templateNameLengthMax,
  type EventKind,
  type SandboxState,
  type TemplateDefaults,
} from "@roost/contract";
import { MiB } from "@roost/kit";

import type { NewEvent } from "../db/events.ts";
import type { TemplateTable } from "../db/schema.ts";
import type { ObservedSandbox } from "../db/sandboxes.ts";
import type { HostInfo } from "./host-info.ts";

/** Of an event, in characters; a host's are far shorter */
const messageLengthMax = 4096;
const entriesMax = 32;
/** Of how a VM ended, in lines; hosts keep as many */
const consoleLinesMax = 200;
/** Of what something was made with or of, in characters */
const versionLengthMax = 256;
/** Of a sandbox's token, in characters; ours have 64 */
const tokenLengthMax = 256;
/** The last instant that is told of in Unix `ms`: the end of the year 9999, which databases and ISO 8601 still know */
const timeMsMax = 253_402_300_799_999;
const eventIdPattern = /^[A-Za-z0-9_-]{8,64}$/;

export interface HostTemplate extends Omit<TemplateTable, "host_id"> {
  readonly defaults: TemplateDefaults;
  readonly time_created: Date;
}

const states: Readonly<Record<number, SandboxState>> = {
  [WireState.CREATING]: "creating",
  [WireState.RUNNING]: "running",
  [WireState.PAUSING]: "pausing",
  [WireState.PAUSED]: "paused",
  [WireState.RESUMING]: "resuming",
  [WireState.SNAPSHOTTING]: "snapshotting",
  [WireState.STOPPING]: "stopping",
  [WireState.STOPPED]: "stopped",
  [WireState.FAILED]: "failed",
};

/** A sandbox as a host agent describes it; throws where the description cannot be one. */
export function observedFrom(sandbox: WireSandbox | undefined, hostId: string): ObservedSandbox {
  const spec = sandbox?.spec;
  const state = states[sandbox?.state ?? WireState.UNSPECIFIED];
  if (sandbox === undefined || spec === undefined || state === undefined || !sandboxIdPattern.test(spec.sandboxId)) {
    throw new PlatformError("internal", "the sandbox's host sent an answer that makes no sense", {
      detail: `host ${hostId} described a sandbox without a known state, spec or id`,
    });
  }
  return {
    id: spec.sandboxId,
    hostId,
    template: cut(spec.templateName || spec.template, templateNameLengthMax),
    vcpus: spec.vcpus,
    memoryMib: spec.memoryMib,
    diskSizeMib: spec.diskSizeMib,
    timeoutSec: spec.timeoutSec,
    accessToken: cut(spec.accessToken, tokenLengthMax),
    state,
    generation: Number(sandbox.generation),
    failureReason: sandbox.failureReason === undefined ? null : cut(sandbox.failureReason, messageLengthMax),
    stopReason: sandbox.stopReason === undefined ? null : cut(sandbox.stopReason, messageLengthMax),
    vmExit:
      sandbox.vmExit === undefined
        ? null
        : {
            exit_code: sandbox.vmExit.exitCode ?? null,
            signal: sandbox.vmExit.signal ?? null,
            console_tail: sandbox.vmExit.consoleTail.slice(-consoleLinesMax).map((line) => cut(line, messageLengthMax)),
          },
    versions: cutEntries(sandbox.versions, versionLengthMax),
    timeCreated: dateFrom(sandbox.timeCreatedMs),
    timeStarted: sandbox.timeStartedMs === undefined ? null : dateFrom(sandbox.timeStartedMs),
    timeLastActive: dateFrom(sandbox.timeLastActiveMs),
    checkpointIntervalSec: spec.checkpointIntervalSec,
    startPath: sandbox.startPath === "" ? null : cut(sandbox.startPath, nameLengthMax),
    currentGeneration: sandbox.currentGeneration === 0 ? null : sandbox.currentGeneration,
    hasMemory: sandbox.hasMemory,
    timePaused: sandbox.timePausedMs === undefined ? null : dateFrom(sandbox.timePausedMs),
    notice: sandbox.notice === undefined || sandbox.notice === "" ? null : cut(sandbox.notice, noticeLengthMax),
    ...(sandbox.transit === undefined
      ? {}
      : { transit: { moveId: cut(sandbox.transit.moveId, nameLengthMax), arriving: sandbox.transit.arriving } }),
  };
}

/** U+0000 is legal in a console line and in JSON, not in what PostgreSQL stores. */
function storable(text: string): string {
  return text.replaceAll("\0", "\u{FFFD}");
}

/** At most so many characters, and no half of one that UTF-16 needs two for. */
function cut(text: string, lengthMax: number): string {
  return storable(text)
    .slice(0, lengthMax)
    .replace(/[\uD800-\uDBFF]$/, "");
}

function cutEntries(entries: Readonly<Record<string, string>>, lengthMax: number): Record<string, string> {
  return Object.fromEntries(
    Object.entries(entries)
      .slice(0, entriesMax)
      .map(([key, value]) => [cut(key, nameLengthMax), cut(value, lengthMax)]),
  );
}

/** An instant that a host names, as one that can be stored: whatever number it sends. */
function dateFrom(unixMs: bigint): Date {
  return new Date(Math.min(Math.max(Number(unixMs), 0), timeMsMax));
}

const templateKinds = ["base", "snapshot", "image", "step", "build"] as const satisfies readonly HostTemplate["kind"][];

function isTemplateKind(kind: string): kind is HostTemplate["kind"] {
  return (templateKinds as readonly string[]).includes(kind);
}

/** A template as a host describes it. */
export function templateFrom(template: WireTemplate): HostTemplate {
  return {
    name: cut(template.name, templateNameLengthMax),
    kind: isTemplateKind(template.kind) ? template.kind : "base",
    digest: cut(template.digest, versionLengthMax),
    disk_size_mib: template.diskSizeMib,
    has_memory: template.hasMemory,
    vcpus: template.vcpus,
    memory_mib: template.memoryMib,
    defaults: defaultsFrom(template.defaults),
    time_created: dateFrom(template.timeCreatedMs),
  };
}

/** What a host says of processes in a template's sandboxes. */
export function defaultsFrom(defaults: WireDefaults | undefined): TemplateDefaults {
  if (defaults === undefined) return noTemplateDefaults;
  const { user, workdir, envs, startCommand, readyCommand } = defaults;
  return { user, workdir, envs, startCommand, readyCommand };
}

/** Of sandboxes and templates; what becomes of hosts, teams and keys is the control plane's to say, and a host that said it would be taken for that. */
function isToldByHosts(kind: EventKind): boolean {
  if (kind === "sandbox.expired" || kind === "sandbox.moved") return false;
  return kind.startsWith("sandbox.") || kind.startsWith("template.");
}

/** An event as a host tells it; undefined when it is of a kind that this control plane does not know, or is no host's to tell. */
export function eventFrom(event: WireEvent, hostId: string): NewEvent | undefined {
  if (!isEventKind(event.kind) || !isToldByHosts(event.kind)) return undefined;
  const told = {
    hostId,
    time: dateFrom(event.timeMs),
    kind: event.kind,
    sandboxId: sandboxIdPattern.test(event.sandboxId) ? event.sandboxId : null,
    template: event.template === "" ? null : cut(event.template, templateNameLengthMax),
    message: cut(event.message, messageLengthMax),
    detail: cutEntries(event.detail, messageLengthMax),
  };
  // A host that gives none must say all of it again for it to be the same event
  const id = eventIdPattern.test(event.eventId)
    ? event.eventId
    : createHash("sha256").update(JSON.stringify(told)).digest("hex").slice(0, 32);
  return { id, ...told };
}

export function hostInfoFrom(host: GetHostResponse): HostInfo {
  return {
    agent_version: host.agentVersion,
    vmm: host.vmm,
    vmm_version: host.vmmVersion,
    accelerator: host.accelerator,
    accelerator_reason: host.acceleratorReason,
    kernel_version: host.kernelVersion,
    cpu_count: host.cpuCount,
    memory_mb: host.memoryLimitMib || host.memoryMib,
    memory_free_mb: host.memoryFreeMib,
    disk_mb: Math.trunc(Number(host.diskTotalBytes) / MiB),
    disk_free_mb: Math.trunc(Number(host.diskFreeBytes) / MiB),
    arch: host.arch,
    cpu_load: host.cpuLoad,
    memory_fingerprint: cut(host.memoryFingerprint, nameLengthMax),
    sandbox_count: host.sandboxCount,
    sandbox_count_max: host.sandboxCountMax,
  };
}
