import { stat } from "node:fs/promises";

import { PlatformError } from "@roost/contract";

import type { ImageFolder } from "../memory/image-folder.ts";

/** The layers, less a last one that was never made: a record names it before it is. */
export async function presentLayers(images: ImageFolder, layers: readonly string[]): Promise<string[]> {
  const present: string[] = [];
  for (const layer of layers) {
    const size = await stat(images.layerPath(layer)).then(
      (status) => status.size,
      () => 0,
    );
    if (size > 0) present.push(layer);
    else if (layer !== layers.at(-1))
      throw new PlatformError("image_damaged", "a part of the sandbox's disk is missing", { detail: images.layerPath(layer) });
  }
  return present;
}
