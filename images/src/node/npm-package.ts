import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";

import { stepTimeoutMs } from "../contained-run.ts";
import { ImageBuildError } from "../image-build-error.ts";

/** A package of the npm registry, pinned by content. */
export interface NpmPackage {
  readonly name: string;
  readonly version: string;
  /** As the registry and lock files have it: `sha512-<base64>`. */
  readonly integrity: string;
}

/** Downloads the package's tarball into `folder` and returns its path. What has another content than pinned is refused. */
export async function downloadNpmPackage(wanted: NpmPackage, folder: string, signal: AbortSignal): Promise<string> {
  const spec = `${wanted.name}@${wanted.version}`;
  // In an empty folder: npm must not take us for a member of this repository's workspace.
  const printed = await run(["npm", "pack", spec, "--pack-destination", folder, "--loglevel=error"], {
    cwd: folder,
    timeoutMs: stepTimeoutMs,
    signal,
  });
  const file = printed.trim().split("\n").at(-1) ?? "";
  const path = join(folder, file);
  const content = await readFile(path);
  const integrity = `sha512-${createHash("sha512").update(content).digest("base64")}`;
  if (integrity !== wanted.integrity) throw new ImageBuildError(`the npm registry's ${spec} has content other than expected: ${integrity}`);
  return path;
}
