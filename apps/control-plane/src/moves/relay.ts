import { PlatformError, type NetworkPolicy } from "@roost/contract";
import type { Parcel, ReadDepartureResponse } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { hour, second } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { toWireEgress } from "../hosts/wire-egress.ts";
import { saveTimeoutMs, type HostLink } from "../hosts/host-link.ts";

/** Time a host has for one part in `ms`: a megabyte, and what it passes over of zeros */
const partTimeoutMs = 30 * second;
/** Time for all of a sandbox in `ms`: a host that sends a byte at a time would be at it for ever */
const relayTimeoutMs = 4 * hour;

export interface RelayParts {
  readonly moveId: string;
  readonly sandbox: SandboxRow;
  /** What its guest may reach, with secrets */
  readonly network: NetworkPolicy;
  readonly parcel: Parcel;
  readonly from: HostLink;
  readonly to: HostLink;
  readonly signal: AbortSignal;
}

/**
 * Carries the files of a sandbox from one host to another, which neither know nor trust each other: part for part, the next one read while one is written, so two parts are in memory at
 * most. Each part is a call with a deadline, and goes to where it belongs by its offset: there is no stream that could hang, and nothing to go on with when it breaks but to begin again.
 *
 * Answers by which it can be completed, and how much was carried: nothing of one that arrived earlier already. Rejects with what either host says, as `PlatformError`.
 */
export async function relay({
  moveId,
  sandbox,
  network,
  parcel,
  from,
  to,
  signal,
}: RelayParts): Promise<{ readonly attemptId: string; readonly bytes: number }> {
  const sandboxId = sandbox.id;
  const arrival = {
    moveId,
    sandboxId,
    parcel,
    vcpus: sandbox.vcpus,
    memoryMib: sandbox.memory_mib,
    diskSizeMib: sandbox.disk_size_mib,
    accessToken: sandbox.access_token,
    network: toWireEgress(network),
  };
  const begun = await to.call(() => to.client.beginArrival(arrival, { timeoutMs: saveTimeoutMs, signal }));
  const { attemptId } = begun;
  let bytes = 0;
  const read = async (file: string, offset: bigint) =>
    from.call(() => from.client.readDeparture({ sandboxId, moveId, file, offset }, { timeoutMs: partTimeoutMs, signal }));
  const endMs = performance.now() + relayTimeoutMs;
  for (const file of begun.isComplete ? [] : begun.neededFiles) {
    let asked = 0n;
    let reading: Promise<ReadDepartureResponse> | undefined = read(file, asked);
    while (reading !== undefined) {
      const { offset, data, isLast }: ReadDepartureResponse = await reading;
      const end: bigint = offset + BigInt(data.length);
      if (offset < asked || (end === asked && !isLast))
        throw new PlatformError("internal", `the sandbox's host sends ${file} out of order`);
      if (performance.now() > endMs) throw new PlatformError("host_unreachable", "the sandbox could not be copied in time");
      asked = end;
      reading = isLast ? undefined : read(file, end);
      reading?.catch(() => undefined); // looked at in the next turn, unless the write fails first
      bytes += data.length;
      if (data.length === 0) continue;
      await to.call(() => to.client.writeArrival({ moveId, attemptId, file, offset, data }, { timeoutMs: partTimeoutMs, signal }));
    }
  }
  return { attemptId, bytes };
}
