import { realpath, stat } from "node:fs/promises";

import { RoostError } from "../errors.ts";
import type { BuildArchive } from "./context/archive.ts";
import { walkFolder } from "./context/context-folder.ts";

/** An image that is here: an archive as `docker save` and `skopeo copy … oci-archive:` write it, or a folder with an OCI layout. */
export async function imageArchive(path: string): Promise<BuildArchive> {
  const file = await realpath(path).catch((error: unknown) => {
    throw new RoostError("context_invalid", `there is no image archive ${path}`, { cause: error });
  });
  const stats = await stat(file);
  if (stats.isFile()) return { kind: "file", file, size: stats.size };
  const entries = stats.isDirectory() ? await walkFolder(file) : [];
  if (entries.some((entry) => entry.path === "oci-layout")) return { kind: "packed", entries, isCompressed: false };
  throw new RoostError("context_invalid", `${path} is no image; name a tar archive of one, or a folder with an OCI layout`);
}
