import type { MessageInitShape } from "@bufbuild/protobuf";
import { egressOf, type NetworkPolicy } from "@roost/contract";
import type { EgressPolicySchema } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

/** The half of a network policy that a host enforces, as it is told; with the password of its proxy and the values of headers. */
export function toWireEgress(policy: NetworkPolicy): MessageInitShape<typeof EgressPolicySchema> {
  const { allowOut, denyOut, proxy, rules, limits } = egressOf(policy);
  return {
    allowOut: [...allowOut],
    denyOut: [...denyOut],
    ...(proxy === null ? {} : { proxy: { ...proxy } }),
    rules: Object.fromEntries(Object.entries(rules).map(([domain, { headers }]) => [domain, { headers: { ...headers } }])),
    limits: {
      outMbit: limits.outMbit ?? 0,
      inMbit: limits.inMbit ?? 0,
      connections: limits.connections ?? 0,
      connectionsPerSec: limits.connectionsPerSec ?? 0,
    },
  };
}
