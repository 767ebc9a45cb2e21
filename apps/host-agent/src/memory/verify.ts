import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { MiB } from "@roost/kit";

import { sha256, type FileDigests } from "./checksum.ts";
import { DiffReader } from "./diff-reader.ts";
import { readBounded } from "./file-io.ts";
import type { Generation } from "./generations.ts";
import { readError } from "./image-damaged.ts";
import type { ImagePaths } from "./image-paths.ts";
import { deviceStateBytesMax } from "./manifest.ts";

export interface VerifyOptions {
  /**
   * Read every byte. Otherwise what a restore needs to be sure of: small files, and the table of the diff, are read; of layers and base file the
   * identity is compared, and they are read when it differs (see `FileDigests`); the diff's data is checked when it is applied.
   */
  readonly deep: boolean;
  /** With `deep`: what `digests` already knows was read on behalf of this caller, and needs not be read again */
  readonly readsOnce?: boolean;
  readonly signal?: AbortSignal;
}

/** What is not as it was committed, one sentence for each file; empty: everything is. */
export async function findDamage(
  paths: ImagePaths,
  { manifest, folder }: Generation,
  digests: FileDigests,
  options: VerifyOptions,
): Promise<string[]> {
  const damage: string[] = [];
  const examine = async (path: string, look: () => Promise<string | undefined>): Promise<void> => {
    try {
      const what = await look();
      if (what !== undefined) damage.push(`${path}: ${what}`);
    } catch (error) {
      const read = readError(path, error);
      if (!(read instanceof PlatformError && read.code === "image_damaged")) throw read;
      damage.push(read.detail ?? path);
    }
  };
  const large = [
    ...manifest.disk.layers.map((layer) => ({ path: paths.layer(layer.file), stated: layer })),
    ...(manifest.memory === null ? [] : [{ path: paths.base(manifest.memory.base.file), stated: manifest.memory.base }]),
  ];
  for (const { path, stated } of large) await examine(path, async () => digests.differs(path, stated, options));
  if (manifest.memory === null) return damage;

  const { diff, deviceState } = manifest.memory;
  const diffPath = join(folder, diff.file);
  await examine(diffPath, async () => {
    const reader = await DiffReader.open(diffPath, { memoryBytes: manifest.vm.memoryMib * MiB, info: diff });
    try {
      if (options.deep) await reader.verify(options.signal);
    } finally {
      await reader.close();
    }
    return undefined;
  });
  const statePath = join(folder, deviceState.file);
  await examine(statePath, async () => {
    const digest = sha256(await readBounded(statePath, deviceStateBytesMax));
    return digest === deviceState.digest ? undefined : `has digest ${digest}, not ${deviceState.digest}`;
  });
  return damage;
}
