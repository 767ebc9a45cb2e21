import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { imageSetSchema } from "@roost/contract";
import { must } from "@roost/kit";

/** Where the platforms that are measured have their images: the same setting leads both there. */
export function imagesFolder(): string {
  return join(process.env["ROOST_CACHE_DIR"] ?? "/var/cache/roost", "images");
}

/** Root file system of the template `base`: a file with ext4 in it. */
export async function baseImage(): Promise<string> {
  const { templates } = imageSetSchema.parse(JSON.parse(await readFile(join(imagesFolder(), "images.json"), "utf8")));
  return join(imagesFolder(), must(templates["base"], "the template base").path);
}
