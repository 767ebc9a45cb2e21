import { PlatformError, type TeamQuota } from "@roost/contract";

import type { Taken } from "../db/reservations.ts";

/** What is being asked for, and counted in what is taken already. */
export interface QuotaRequest {
  readonly count: number;
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly diskMib: number;
  /** It is a sandbox that there was before: only what running takes is new */
  readonly isThere?: boolean;
}

/** Throws `quota_exceeded` when what a team takes is more than it may; names the first quota that is, what was used, and the limit. */
export function checkQuota(
  quota: Partial<TeamQuota>,
  taken: Taken,
  { count, vcpus, memoryMib, diskMib, isThere = false }: QuotaRequest,
): void {
  const there = isThere ? 0 : count;
  const limits = [
    { name: "sandboxes", limit: quota.sandboxes, taken: taken.sandboxes, asked: there, advice: "delete one" },
    { name: "vcpus", limit: quota.vcpus, taken: taken.vcpus, asked: count * vcpus, advice: "pause or delete sandboxes, or ask for fewer" },
    {
      name: "memory_mb",
      limit: quota.memory_mb,
      taken: taken.guestMemoryMib,
      asked: count * memoryMib,
      advice: "pause or delete sandboxes, or ask for less",
    },
    { name: "disk_mb", limit: quota.disk_mb, taken: taken.diskMib, asked: there * diskMib, advice: "delete sandboxes" },
  ];
  for (const { name, limit, taken: used, asked, advice } of limits) {
    if (typeof limit !== "number" || used <= limit || asked === 0) continue;
    throw new PlatformError(
      "quota_exceeded",
      `the team's quota ${name} is ${limit}, ${used - asked} of it are used, and this needs ${asked} more; ${advice}, or have the quota raised`,
    );
  }
}
