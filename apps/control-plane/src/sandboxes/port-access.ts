import type { PortAccess, PortPolicy } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";

/** Stands for all ports of which nothing else is said. */
const allOthers = "*";

type Ported = Pick<SandboxRow, "network" | "port_access">;

/** Who may reach a port. */
export function accessOfPort(sandbox: Ported, port: number): PortAccess {
  return sandbox.port_access[port] ?? accessOfOthers(sandbox);
}

/** Who may reach the ports of which nothing else is said. E2B's API says it in the network policy, when a sandbox is created. */
export function accessOfOthers({ network, port_access: recorded }: Ported): PortAccess {
  return recorded[allOthers] ?? (network.is_public === true ? "public" : "private");
}

export function policyOf(sandbox: Ported): PortPolicy {
  const { [allOthers]: _others, ...ports } = sandbox.port_access;
  return { access: accessOfOthers(sandbox), ports, mask_request_host: sandbox.network.mask_request_host ?? null };
}

/** Who may reach them, for a record. */
export function recordedAccess({ access, ports }: Pick<PortPolicy, "access" | "ports">): Record<string, PortAccess> {
  return { [allOthers]: access, ...ports };
}
