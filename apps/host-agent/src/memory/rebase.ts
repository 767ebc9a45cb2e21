import { rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { assert, MiB, syncFolder } from "@roost/kit";

import { pageBytes } from "../vmm/driver.ts";
import { identityOf } from "./checksum.ts";
import { writeEmptyDiff } from "./diff-file.ts";
import { syncFile } from "./file-io.ts";
import type { Generation } from "./generations.ts";
import { onHostDisk } from "./image-damaged.ts";
import type { ImageFolder } from "./image-folder.ts";
import { baseSuffix, randomName } from "./image-paths.ts";
import { diffFile, type BaseFile, type Manifest } from "./manifest.ts";
import { mergeBase } from "./merge-base.ts";
import type { ImageContext } from "./publish.ts";

/** Whether the diff of a generation has outgrown what each restore should write into memory again. Data and zero pages, in `bytes`. */
export function needsRebase({ manifest }: Pick<Generation, "manifest">, thresholds: { readonly diffBytes: number }): boolean {
  if (manifest.memory === null) return false;
  const { pages, zeroPages } = manifest.memory.diff;
  return (pages + zeroPages) * pageBytes > thresholds.diffBytes;
}

/**
 * Merges base and diff of a generation into a base file of its own and commits that, with an empty diff, as the generation's next revision. For
 * templates, whose every start would write the diff again, and for sandboxes whose diff has grown. Nothing is edited in place; until the
 * commit, and when it fails or `signal` aborts, the old files count. The old base file goes with the next `prune`.
 *
 * Works in slices and may take seconds. Rejects with `image_damaged` when what it reads is, `host_disk_full`, or the signal's reason.
 */
export async function rebase(images: ImageFolder, number: number, options: { readonly signal?: AbortSignal } = {}): Promise<Generation> {
  return onHostDisk(async () =>
    images.whileUnfinished(async (context) => {
      const generation = await images.get(number);
      const { memory } = generation.manifest;
      assert(memory !== null, "a generation without memory has nothing to merge");
      await images.verify(generation, { deep: false, ...(options.signal === undefined ? {} : { signal: options.signal }) });
      const base = await makeBase(context, generation, memory, options.signal);
      try {
        return await images.commitRevision(generation, {
          memory: {
            base,
            writeDiff: async (path) => ({ file: diffFile, ...(await writeEmptyDiff(path, base.sizeBytes)) }),
          },
        });
      } catch (error) {
        await rm(context.paths.base(base.file), { force: true });
        throw error;
      }
    }),
  );
}

async function makeBase(
  { paths, digests, onStep }: ImageContext,
  { manifest, folder }: Generation,
  memory: NonNullable<Manifest["memory"]>,
  signal: AbortSignal | undefined,
): Promise<BaseFile> {
  const staging = paths.staging(paths.memory);
  const file = `${randomName()}${baseSuffix}`;
  const path = paths.base(file);
  try {
    const merged = await mergeBase({
      baseFile: paths.base(memory.base.file),
      baseDataMap: memory.base.dataMap,
      diffPath: join(folder, memory.diff.file),
      diff: memory.diff,
      memoryBytes: manifest.vm.memoryMib * MiB,
      output: staging,
      signal,
    });
    await onStep("base:written");
    await syncFile(staging);
    signal?.throwIfAborted();
    await onStep("base:synced");
    await rename(staging, path);
    await onStep("base:renamed");
    await syncFolder(paths.memory);
    await onStep("base:published");
    const status = await stat(path, { bigint: true });
    const described = {
      file,
      sizeBytes: Number(status.size),
      digest: merged.digest,
      dataMap: merged.dataMap,
      identity: identityOf(status),
    };
    digests.remember(described);
    return described;
  } catch (error) {
    await rm(staging, { force: true });
    await rm(path, { force: true });
    throw error;
  }
}
