import type { MessageInitShape } from "@bufbuild/protobuf";
import { egressOf, type NetworkPolicy } from "@roost/contract";
import type { EgressPolicySchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

/** The half of a network policy that a host enforces, as it is told; with the password of its proxy. */
export function toWireEgress(policy: NetworkPolicy): MessageInitShape<typeof EgressPolicySchema> {
  const { allowOut, denyOut, proxy } = egressOf(policy);
  return { allowOut: [...allowOut], denyOut: [...denyOut], ...(proxy === null ? {} : { proxy: { ...proxy } }) };
}
