import { statfs } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { formatBytes, GiB, MiB } from "@roost/kit";

/**
 * Space on the host's disk in `bytes` that no new sandbox may take: what running sandboxes still write to their overlays
 * and what pausing them writes must fit. Below it the host refuses new work with `host_disk_full`, and harms nobody.
 */
export const hostDiskReserveBytes = 2 * GiB;

/** Space that unprivileged writers have on the file system of `folder`, in `bytes`. */
export async function freeBytes(folder: string): Promise<number> {
  const status = await statfs(folder);
  return status.bavail * status.bsize;
}

/** Size of the file system of `folder`, in `bytes`. */
export async function totalBytes(folder: string): Promise<number> {
  const status = await statfs(folder);
  return status.blocks * status.bsize;
}

/** Throws `host_disk_full` when writing `neededBytes` to the file system of `folder` would eat into the reserve. */
export async function checkFreeSpace(
  folder: string,
  neededBytes: number = MiB,
  reserveBytes: number = hostDiskReserveBytes,
): Promise<void> {
  const free = await freeBytes(folder);
  if (free - neededBytes >= reserveBytes) return;
  throw new PlatformError("host_disk_full", "the host's disk is full, so it takes no new work right now", {
    detail: `${folder}: ${formatBytes(free)} free, ${formatBytes(neededBytes)} needed, ${formatBytes(reserveBytes)} reserved`,
    retryAfterSec: 60,
  });
}
