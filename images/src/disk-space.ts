import { statfs } from "node:fs/promises";

import { formatBytes } from "@roost/kit";

import { ImageBuildError } from "./image-build-error.ts";

/** Refuses before anything is written, rather than leave a full disk. */
export async function requireDiskSpace(folder: string, bytes: number): Promise<void> {
  const stats = await statfs(folder);
  const free = stats.bavail * stats.bsize;
  if (free >= bytes) return;
  throw new ImageBuildError(
    `building the images needs ${formatBytes(bytes)} of free space in ${folder}, which has ${formatBytes(free)}; ` +
      "make room there, or set ROOST_CACHE_DIR to a folder on a larger disk",
  );
}
