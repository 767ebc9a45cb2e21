import { rm } from "node:fs/promises";

import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import { layersMax as manifestLayersMax } from "../memory/manifest.ts";
import type { ImagePolicy } from "./context.ts";
import type { Disks } from "./disks.ts";
import { newLayerName } from "./start-vm.ts";

/** Time that a disk with far too many layers is given to be merged before it is used further, in `ms`. */
export const urgentMergeTimeoutMs = 60_000;
/** Layers that may still come on a disk before the next merge is waited for */
const urgentMargin = 16;

/** Layers of a disk above which its merging is waited for, instead of being done when there is time: well below what a manifest takes. */
export function urgentLayers({ layersMax }: Pick<ImagePolicy, "layersMax">): number {
  return Math.min(2 * layersMax, manifestLayersMax - urgentMargin);
}

export interface MergeGenerationOptions {
  readonly disks: Disks;
  readonly signal: AbortSignal;
  /** Between the merge and its commit */
  readonly onMerged?: () => Promise<void>;
}

/** Makes one layer of all that a generation has, in a new revision of it; its name. When it fails the layers stay as they are. */
export async function mergeGeneration(images: ImageFolder, generation: Generation, options: MergeGenerationOptions): Promise<string> {
  const { disk } = generation.manifest;
  const merged = newLayerName();
  return images.whileUnfinished(async () => {
    try {
      await options.disks.mergeLayers({
        layers: disk.layers.map((layer) => images.layerPath(layer.file)),
        output: images.layerPath(merged),
        sizeMib: disk.sizeMib,
        signal: options.signal,
      });
      await options.onMerged?.();
      await images.commitRevision(generation, { layers: [merged] });
      return merged;
    } catch (error) {
      await rm(images.layerPath(merged), { force: true });
      throw error;
    }
  });
}
