import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";

import { stepTimeoutMs } from "../contained-run.ts";
import { ImageBuildError } from "../image-build-error.ts";

/** The name that a meta package such as `linux-image-cloud-amd64` stands for now, from `apt-cache depends`. */
export function dependencyOf(aptCacheOutput: string, pattern: RegExp): string | undefined {
  return aptCacheOutput
    .split("\n")
    .map((line) => /^\s+(?:Pre)?Depends:\s+(\S+)$/.exec(line)?.[1])
    .find((name) => name !== undefined && pattern.test(name));
}

/** Asks apt which package `metaPackage` stands for; asks the repositories first when it does not know, or with `refresh`. */
export async function resolveMetaPackage(
  metaPackage: string,
  pattern: RegExp,
  options: { readonly refresh: boolean; readonly signal: AbortSignal },
) {
  const ask = async () =>
    dependencyOf(await run(["apt-cache", "depends", metaPackage], { signal: options.signal }).catch(() => ""), pattern);
  if (options.refresh) await updatePackageLists(options.signal);
  let name = await ask();
  if (name === undefined && !options.refresh) {
    await updatePackageLists(options.signal);
    name = await ask();
  }
  if (name === undefined) throw new ImageBuildError(`apt knows no package ${metaPackage}; are Debian's own sources in /etc/apt?`);
  return name;
}

export async function updatePackageLists(signal: AbortSignal): Promise<void> {
  await run(["apt-get", "update", "-qq"], { timeoutMs: stepTimeoutMs, signal });
}

/** Downloads a package and unpacks its files into `folder`. Nothing is installed on this machine. */
export async function unpackDebianPackage(name: string, scratchFolder: string, folder: string, signal: AbortSignal): Promise<void> {
  const download = () =>
    run(["apt-get", "download", "-qq", "-o", "APT::Sandbox::User=root", name], { cwd: scratchFolder, timeoutMs: stepTimeoutMs, signal });
  try {
    await download();
  } catch (error) {
    signal.throwIfAborted();
    // The lists are older than the mirror: it has replaced this version by a newer one.
    await updatePackageLists(signal);
    await download().catch(() => {
      throw new ImageBuildError(`cannot download ${name} from Debian's package repositories`, { cause: error });
    });
  }
  const file = (await readdir(scratchFolder)).find((entry) => entry.startsWith(`${name}_`) && entry.endsWith(".deb"));
  if (file === undefined) throw new ImageBuildError(`apt-get downloaded no file for ${name}`);
  await run(["dpkg-deb", "--extract", join(scratchFolder, file), folder], { timeoutMs: stepTimeoutMs, signal });
}
