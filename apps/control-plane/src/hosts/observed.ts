import {
  SandboxState as WireState,
  type Sandbox as WireSandbox,
  type GetHostResponse,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { PlatformError, sandboxIdPattern, type SandboxState } from "@roost/contract";

import type { HostInfo } from "../db/schema.ts";
import type { ObservedSandbox } from "../db/sandboxes.ts";

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
    template: spec.template,
    vcpus: spec.vcpus,
    memoryMib: spec.memoryMib,
    diskSizeMib: spec.diskSizeMib,
    timeoutSec: spec.timeoutSec,
    accessToken: spec.accessToken,
    state,
    generation: Number(sandbox.generation),
    failureReason: sandbox.failureReason ?? null,
    stopReason: sandbox.stopReason ?? null,
    vmExit:
      sandbox.vmExit === undefined
        ? null
        : {
            exit_code: sandbox.vmExit.exitCode ?? null,
            signal: sandbox.vmExit.signal ?? null,
            // U+0000 is legal in a console line and in JSON, not in PostgreSQL's jsonb
            console_tail: sandbox.vmExit.consoleTail.map((line) => line.replaceAll("\0", "\u{FFFD}")),
          },
    versions: sandbox.versions,
    timeCreated: new Date(Number(sandbox.timeCreatedMs)),
    timeStarted: sandbox.timeStartedMs === undefined ? null : new Date(Number(sandbox.timeStartedMs)),
    timeLastActive: new Date(Number(sandbox.timeLastActiveMs)),
  };
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
    memory_mb: host.memoryMib,
    memory_free_mb: host.memoryFreeMib,
    disk_free_bytes: Number(host.diskFreeBytes),
    sandbox_count: host.sandboxCount,
    sandbox_count_max: host.sandboxCountMax,
  };
}
