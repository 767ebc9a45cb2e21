import { stat } from "node:fs/promises";
import { dirname, join } from "node:path";

import type { Generation } from "./image-folder.ts";
import { deviceStateFile, diffFile, manifestFile } from "./manifest.ts";

/** What the files of a generation occupy on the disk in `bytes`; those it shares with others count too. */
export async function occupiedBytes(generation: Generation): Promise<number> {
  const { manifest, folder } = generation;
  const root = dirname(dirname(folder));
  const own = [manifestFile, ...(manifest.memory === null ? [] : [diffFile, deviceStateFile])].map((name) => join(folder, name));
  const layers = manifest.disk.layers.map((layer) => join(root, "disk", layer.file));
  const base = manifest.memory === null ? [] : [join(root, "memory", manifest.memory.base.file)];
  let sum = 0;
  for (const path of [...own, ...layers, ...base]) {
    sum += await stat(path).then(
      (status) => status.blocks * 512,
      () => 0, // removed meanwhile
    );
  }
  return sum;
}
