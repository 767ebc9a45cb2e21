import { mkdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";

import { stepTimeoutMs } from "./contained-run.ts";
import { digestOfFile, digestOfInputs } from "./digest.ts";
import type { ImageCache } from "./image-cache.ts";
import { partFolderName, type BuiltPart, type Part } from "./part.ts";
import type { OnProgress } from "./progress.ts";
import { digestOfSparseFile } from "./sparse-digest.ts";

export interface BuildOptions {
  readonly cache: ImageCache;
  readonly onProgress: OnProgress;
  readonly signal: AbortSignal;
  readonly refresh: boolean;
}

/** The part its inputs lead to: the one that is there, or a new one. The caller holds the cache's lock. */
export async function buildPart(part: Part, options: BuildOptions): Promise<BuiltPart> {
  const { cache, signal } = options;
  const report = (message: string, fraction?: number) =>
    options.onProgress({ step: part.name, message, ...(fraction === undefined ? {} : { fraction }) });
  const inputsDigest = digestOfInputs(await part.inputs());
  const known = options.refresh ? undefined : await cache.findPart(part.name, inputsDigest);
  if (known !== undefined) return known;

  const temporary = await cache.createTemporaryFolder(part.name);
  try {
    const outputFolder = join(temporary, "output");
    const scratchFolder = join(temporary, "scratch");
    await mkdir(outputFolder);
    await mkdir(scratchFolder);
    const result = await part.build({ outputFolder, scratchFolder, signal, refresh: options.refresh, onProgress: report });
    signal.throwIfAborted();
    const main = join(outputFolder, result.main);
    const digest = await (result.isSparse === true ? digestOfSparseFile(main, signal) : digestOfFile(main, signal));
    const folder = partFolderName(part.name, digest);
    // VMMs read them under users of their own, whatever the umask of who builds.
    await run(["chmod", "--recursive", "a+rX,go-w", outputFolder], { signal });
    // One call for the file system instead of one per file: a part may have thousands. After the publishing rename nothing can be missing.
    await run(["sync", "--file-system", outputFolder], { timeoutMs: stepTimeoutMs });
    await cache.publish(outputFolder, folder);
    const built: BuiltPart = {
      folder,
      path: join(folder, result.main),
      digest,
      ...(result.version === undefined ? {} : { version: result.version }),
    };
    await cache.rememberPart(part.name, inputsDigest, built);
    report("done", 1);
    return built;
  } finally {
    await rm(temporary, { recursive: true, force: true });
  }
}
