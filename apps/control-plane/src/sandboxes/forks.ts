import { newSandboxId, newToken, PlatformError, type ForkSandboxBody } from "@roost/contract";
import type { ForkSandboxResponse_Outcome } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import type { Logger } from "@roost/kit";

import type { OwnedId } from "../db/owned-id.ts";
import { insertSandboxes, type SandboxRow } from "../db/sandboxes.ts";
import { failureFrom } from "../hosts/from-connect-error.ts";
import { createTimeoutMs, type HostLink } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { observedFrom } from "../hosts/observed.ts";
import { unnamed, type OperationRequest, type Operations, type RunningOperation } from "../operations/operations.ts";
import type { Placements } from "../placement/placements.ts";
import type { NetworkSecrets } from "./network-secrets.ts";
import { outcomeUnknown, type Newcomers } from "./newcomers.ts";
import type { SandboxRecords } from "./records.ts";
import { requireNotEnded } from "./require-state.ts";

export interface ForkOptions {
  /** Of the children, as `CreateOptions` has it; default: the parent's */
  readonly expirySec?: number;
}

export type ForkedChild = { readonly row: SandboxRow } | { readonly error: PlatformError };

export interface ForksDependencies {
  readonly secrets: NetworkSecrets;
  readonly records: SandboxRecords;
  readonly hosts: Hosts;
  readonly newcomers: Newcomers;
  readonly operations: Operations;
  readonly placements: Placements;
  readonly log: Logger;
}

/** New sandboxes that go on where another one is: on its host, all recorded before that hears of them. */
export class Forks {
  readonly #deps: ForksDependencies;

  constructor(deps: ForksDependencies) {
    this.#deps = deps;
  }

  /** Throws only when none was tried; undone like a create when `signal` aborts. */
  async fork(
    parentOf: OwnedId,
    body: ForkSandboxBody,
    signal: AbortSignal,
    options: ForkOptions = {},
    request: OperationRequest = unnamed(parentOf.team_id),
  ): Promise<ForkedChild[]> {
    const { newcomers, operations, records } = this.#deps;
    newcomers.refuseWhileDraining();
    const parent = await records.get(parentOf);
    requireNotEnded(parent, { kind: "fork" });
    return operations.run("sandbox.fork", request, async (operation) => this.#fork(parent, body, signal, options, operation));
  }

  async #fork(
    parent: SandboxRow,
    body: ForkSandboxBody,
    signal: AbortSignal,
    options: ForkOptions,
    operation: RunningOperation,
  ): Promise<ForkedChild[]> {
    const { newcomers, placements, records } = this.#deps;
    const host = this.#deps.hosts.get(parent.host_id);
    const log = this.#deps.log.child({ parentId: parent.id, hostId: host.id, operationId: operation.id });
    const children = Array.from({ length: body.count }, () => ({ sandboxId: newSandboxId(), accessToken: newToken() }));
    const ids = children.map((child) => child.sandboxId);
    const inFlight = newcomers.begin(ids, signal, log);
    try {
      const timeCreated = records.now();
      const size = { vcpus: parent.vcpus, memoryMib: parent.memory_mib, diskMib: parent.disk_size_mib };
      const place = { sandboxId: parent.id, teamId: parent.team_id, count: ids.length, ...size, tags: [], isQuotaFree: false };
      await placements.place(
        place,
        [{ host, template: { has_memory: true } }],
        async (transaction) => {
          await operation.begin(transaction, { subject: { kind: "sandbox", id: parent.id }, made: ids });
          await insertSandboxes(
            transaction,
            children.map(({ sandboxId, accessToken }) => ({
              id: sandboxId,
              teamId: parent.team_id,
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
              network: this.#deps.secrets.copy(parent.network, parent.id, sandboxId),
              portAccess: parent.port_access,
              trafficToken: parent.traffic_token === null ? null : newToken(),
              hostTags: parent.host_tags,
              templateBuildId: parent.template_build_id,
              templateSnapshotId: parent.template_snapshot_id,
              forBuildId: null,
            })),
          );
        },
        signal,
      );
      inFlight.recorded();
      let outcomes: readonly ForkSandboxResponse_Outcome[];
      try {
        const answer = await host.call(() => host.client.forkSandbox({ sandboxId: parent.id, children }, { timeoutMs: createTimeoutMs }));
        outcomes = answer.outcomes;
      } catch (error) {
        const saysAll = error instanceof PlatformError && !outcomeUnknown.has(error.code);
        for (const id of ids) await newcomers.failed(id, host, error, { saysAll }, log);
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
      await this.#deps.newcomers.failed(id, host, error, { saysAll: said?.case === "failure" }, log);
      return { error: platformError(error) };
    }
    try {
      const row = await this.#deps.newcomers.unlessDeleted(id, host);
      this.#deps.records.resumed(row);
      return { row };
    } catch (error) {
      return { error: platformError(error) };
    }
  }
}

/** What failed of something else than the host's word is not the child's failure: what came of it is found out by whoever takes the operation over. */
function platformError(error: unknown): PlatformError {
  if (error instanceof PlatformError) return error;
  throw error;
}
