import { randomUUID } from "node:crypto";

import type { MessageInitShape } from "@bufbuild/protobuf";
import type { Client } from "@connectrpc/connect";
import type { BeginArrivalRequest, EgressPolicySchema, HostAgentService, Parcel } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must } from "@roost/kit";

type HostClient = Client<typeof HostAgentService>;

export interface CarryOptions {
  readonly moveId?: string;
  /** What the control plane would know of it */
  readonly known?: Partial<Pick<BeginArrivalRequest, "vcpus" | "memoryMib" | "diskSizeMib" | "accessToken">> & {
    readonly network?: MessageInitShape<typeof EgressPolicySchema>;
  };
  /** What a hostile sender would make of it */
  readonly onParcel?: ((parcel: Parcel) => void) | undefined;
  readonly onPart?: (part: { file: string; offset: bigint; data: Uint8Array }) => void;
  readonly afterStep?: (step: "held" | "begun" | "written" | "completed") => Promise<void>;
  /** Without the end of the move on both hosts */
  readonly leavesOpen?: boolean;
}

/** Moves a saved sandbox between two host agents as a control plane does. Answers the names of the files that were carried. */
export async function carry(
  sandboxId: string,
  from: () => HostClient,
  to: () => HostClient,
  options: CarryOptions = {},
): Promise<string[]> {
  const { moveId = randomUUID(), afterStep = async () => undefined } = options;
  const { parcel, sandbox } = await from().beginDeparture({ sandboxId, moveId });
  await afterStep("held");
  const described = must(parcel, "a parcel");
  const spec = must(sandbox?.spec, "what the sandbox was asked to be");
  options.onParcel?.(described);
  const { vcpus, memoryMib, diskSizeMib, accessToken } = spec;
  const network = spec.network === undefined ? {} : { network: spec.network };
  const asked = { moveId, sandboxId, parcel: described, vcpus, memoryMib, diskSizeMib, accessToken, ...network, ...options.known };
  const { attemptId, neededFiles } = await to().beginArrival(asked);
  await afterStep("begun");
  for (const file of neededFiles) {
    for (let offset = 0n, isLast = false; !isLast;) {
      const read = await from().readDeparture({ sandboxId, moveId, file, offset });
      const part = { file, offset: read.offset, data: read.data };
      options.onPart?.(part);
      if (part.data.length > 0) await to().writeArrival({ moveId, attemptId, ...part });
      offset = read.offset + BigInt(read.data.length);
      ({ isLast } = read);
    }
  }
  await afterStep("written");
  await to().completeArrival({ moveId, attemptId, sandboxId });
  await afterStep("completed");
  if (options.leavesOpen === true) return neededFiles;
  await to().endMove({ sandboxId, moveId, stays: true });
  await from().endMove({ sandboxId, moveId, stays: false });
  return neededFiles;
}
