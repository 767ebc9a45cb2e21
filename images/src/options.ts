import { join } from "node:path";

import { defineOptions } from "@roost/kit";
import { z } from "zod";

export const imagesOptions = defineOptions("ROOST_", {
  cacheDir: {
    schema: z.string().startsWith("/", "must be an absolute path").default("/var/cache/roost"),
    desc: "Folder the images are built and kept in",
  },
});

/** The folder of the images inside the cache folder. */
export function imagesFolder(cacheDir: string): string {
  return join(cacheDir, "images");
}
