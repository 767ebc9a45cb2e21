import type { HostDescription, HostHealth, HostLoad } from "@roost/contract";
import type { GetHostResponse } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { formatBytes, MiB } from "@roost/kit";

import { hostDiskReserveBytes } from "../disk/free-space.ts";

/** What a host tells of itself with each heartbeat. */
export interface HostReport {
  readonly description: HostDescription;
  readonly load: HostLoad;
  readonly health: HostHealth;
}

/** The same that a host answers when it is asked, and what an operator should know of it. */
export function reportFrom(host: Omit<GetHostResponse, "$typeName" | "$unknown">, stateDir: string): HostReport {
  const diskFree = Number(host.diskFreeBytes);
  const problems =
    diskFree >= hostDiskReserveBytes
      ? []
      : [`the disk of ${stateDir} is full (${formatBytes(diskFree)} free): no new work until there is room`];
  return {
    description: {
      agent_version: host.agentVersion,
      vmm: host.vmm,
      vmm_version: host.vmmVersion,
      accelerator: host.accelerator,
      accelerator_reason: host.acceleratorReason.slice(0, 1024),
      kernel_version: host.kernelVersion,
      arch: host.arch,
      cpu_count: host.cpuCount,
      memory_mb: host.memoryLimitMib,
      disk_mb: Math.trunc(Number(host.diskTotalBytes) / MiB),
      sandbox_count_max: host.sandboxCountMax,
    },
    load: {
      memory_free_mb: host.memoryFreeMib,
      disk_free_mb: Math.trunc(diskFree / MiB),
      cpu_load: host.cpuLoad,
      sandbox_count: host.sandboxCount,
    },
    health: { is_healthy: problems.length === 0, problems },
  };
}
