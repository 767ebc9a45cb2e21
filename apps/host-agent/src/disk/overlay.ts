import { chmod, chown, open, rename, rm, stat } from "node:fs/promises";
import { dirname, isAbsolute } from "node:path";

import { PlatformError } from "@roost/contract";
import { assert, Cleanup, MiB, run, second, syncFolder } from "@roost/kit";

import { checkFreeSpace } from "./free-space.ts";

/** Time `qemu-img` has in `ms`: it writes 200 KiB. */
const createTimeoutMs = 30 * second;

export interface OverlayOptions {
  /** Base image, a raw file; absolute. Never written. */
  readonly base: string;
  /** Where the overlay goes; absolute, must not exist */
  readonly path: string;
  /** Size the guest sees in `MiB`: at least the base image's, and the most it can fill */
  readonly sizeMib: number;
  /** Owner, the uid its VMM runs as; nobody else can read or write it */
  readonly uid: number;
  readonly gid: number;
  /** Space to leave free on the host in `bytes`; see `hostDiskReserveBytes` */
  readonly reserveBytes?: number;
}

/**
 * Makes a qcow2 file that takes the writes of one sandbox and shows its base image below them. Some 200 KiB on
 * disk. It appears under its name complete and durable, or not at all.
 *
 * Rejects with `template_not_found` (no such base image), `request_invalid` (smaller than its base), `host_disk_full`.
 */
export async function createOverlay(options: OverlayOptions): Promise<void> {
  assert(isAbsolute(options.base) && isAbsolute(options.path), "disk paths are absolute");
  assert(options.uid > 0 && options.gid > 0, "an overlay belongs to an unprivileged VMM");
  await checkBase(options);
  const folder = dirname(options.path);
  await checkFreeSpace(folder, MiB, options.reserveBytes);

  await using cleanup = new Cleanup();
  const staging = `${options.path}.new`;
  cleanup.defer("remove an unfinished overlay", () => rm(staging, { force: true }));
  await rm(staging, { force: true }); // left by a crash
  await run(["/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", options.base, staging, `${options.sizeMib}M`], {
    timeoutMs: createTimeoutMs,
  }).catch((error: unknown) => {
    throw new PlatformError("sandbox_start_failed", "the sandbox's disk could not be made", { detail: options.path, cause: error });
  });
  await chmod(staging, 0o600);
  await chown(staging, options.uid, options.gid);
  {
    await using handle = await open(staging, "r+");
    await handle.sync();
  }
  await rename(staging, options.path);
  await syncFolder(folder);
  cleanup.handOver(undefined);
}

/** Removes an overlay, and what an unfinished `createOverlay` left. Idempotent. */
export async function removeOverlay(path: string): Promise<void> {
  await rm(`${path}.new`, { force: true });
  await rm(path, { force: true });
}

async function checkBase(options: OverlayOptions): Promise<void> {
  const status = await stat(options.base).catch((error: NodeJS.ErrnoException) => {
    throw new PlatformError("template_not_found", "the template's disk is not on this host", { detail: options.base, cause: error });
  });
  if (!status.isFile() || status.size === 0 || status.size % 512 !== 0) {
    throw new PlatformError("template_not_found", "the template's disk is damaged", {
      detail: `${options.base}: ${status.isFile() ? `${status.size} bytes are no whole number of sectors` : "not a file"}`,
    });
  }
  if (status.size > options.sizeMib * MiB) {
    throw new PlatformError("request_invalid", `disk_size_mib ${options.sizeMib} is below the template's ${Math.ceil(status.size / MiB)}`);
  }
}
