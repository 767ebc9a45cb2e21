import type { ServiceImpl } from "@connectrpc/connect";
import { PlatformError, sandboxIdPattern } from "@roost/contract";
import type { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import type { Arrivals } from "../move/arrivals.ts";
import type { Departures } from "../move/departures.ts";
import { endMove } from "../move/transit.ts";
import type { HostEvents } from "../sandbox/host-events.ts";
import type { SandboxManager } from "../sandbox/sandbox-manager.ts";
import { moveIdSchema } from "../sandbox/sandbox-record.ts";
import { egressPolicy, toWireSandbox } from "./messages.ts";

type MoveMethod = "beginDeparture" | "readDeparture" | "beginArrival" | "writeArrival" | "completeArrival" | "endMove";

export interface MoveParts {
  readonly manager: SandboxManager;
  readonly departures: Departures;
  readonly arrivals: Arrivals;
}

/** The calls of `hostagent.v1` by which sandboxes are moved between hosts. */
export function createMoveService(
  answer: <Response>(work: (running: MoveParts) => Promise<Response>) => Promise<Response>,
  events: HostEvents,
): Required<Pick<ServiceImpl<typeof HostAgentService>, MoveMethod>> {
  return {
    beginDeparture: ({ sandboxId, moveId, revision }) =>
      answer(async ({ departures }) => {
        checkMoveId(moveId);
        const basedOn = revision === undefined ? {} : { revision: Number(revision) };
        const { record, parcel } = await departures.begin(sandboxId, moveId, basedOn);
        return { sandbox: toWireSandbox(record), parcel: { ...parcel, manifests: [...parcel.manifests], files: [...parcel.files] } };
      }),
    readDeparture: ({ sandboxId, moveId, file, offset }) =>
      answer(async ({ departures }) => {
        const part = await departures.read(sandboxId, moveId, file, Number(offset));
        return { ...part, offset: BigInt(part.offset) };
      }),
    beginArrival: ({ parcel, ...request }) =>
      answer(async ({ arrivals }) => {
        checkMoveId(request.moveId);
        if (parcel === undefined) throw new PlatformError("request_invalid", "parcel is required");
        if (!sandboxIdPattern.test(request.sandboxId)) throw new PlatformError("request_invalid", "sandbox_id is not a sandbox's id");
        const begun = await arrivals.begin({ ...request, parcel, network: egressPolicy(request.network) });
        return begun === undefined ? { isComplete: true } : { attemptId: begun.attemptId, neededFiles: [...begun.needed] };
      }),
    writeArrival: ({ moveId, attemptId, file, offset, data }) =>
      answer(async ({ arrivals }) => {
        await arrivals.write(moveId, { attemptId, file, offset: Number(offset), data });
        return {};
      }),
    completeArrival: ({ moveId, attemptId, sandboxId }) =>
      answer(async ({ arrivals }) => ({ sandbox: toWireSandbox(await arrivals.complete(moveId, attemptId, sandboxId)) })),
    endMove: ({ sandboxId, moveId, stays }) =>
      answer(async ({ manager, arrivals, departures }) => {
        await arrivals.forget(moveId);
        if (!manager.has(sandboxId)) return {};
        const sandbox = manager.get(sandboxId);
        await endMove(sandbox, moveId, { stays }, events);
        departures.forget(sandboxId);
        return manager.has(sandboxId) ? { sandbox: toWireSandbox(sandbox.record) } : {};
      }),
  };
}

function checkMoveId(moveId: string): void {
  if (!moveIdSchema.safeParse(moveId).success) throw new PlatformError("request_invalid", "move_id: a UUID is expected");
}
