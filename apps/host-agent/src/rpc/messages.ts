import { create } from "@bufbuild/protobuf";
import type { SandboxState } from "@roost/contract";
import {
  SandboxSchema,
  SandboxSpecSchema,
  SandboxState as WireState,
  type Sandbox as WireSandbox,
  type SandboxSpec as WireSpec,
} from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { SandboxRecord, SandboxSpec } from "../sandbox/sandbox-record.ts";

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
    spec: create(SandboxSpecSchema, spec),
    state: wireStates[record.state],
    generation: BigInt(record.generation),
    timeCreatedMs: BigInt(record.timeCreatedMs),
    timeLastActiveMs: BigInt(record.timeLastActiveMs),
    versions: record.versions,
    ...(record.timeStartedMs === null ? {} : { timeStartedMs: BigInt(record.timeStartedMs) }),
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

export function fromWireSpec(spec: WireSpec): SandboxSpec {
  return {
    sandboxId: spec.sandboxId,
    template: spec.template,
    vcpus: spec.vcpus,
    memoryMib: spec.memoryMib,
    diskSizeMib: spec.diskSizeMib,
    timeoutSec: spec.timeoutSec,
    envs: spec.envs,
    accessToken: spec.accessToken,
  };
}
