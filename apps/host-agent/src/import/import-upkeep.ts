import { hour, nap, type Logger } from "@roost/kit";

import type { HeldImage, HeldImages } from "../images/held-images.ts";
import type { Importer } from "./importer.ts";

/** Between two looks in `ms`; what is removed was not used for longer than that by far */
const intervalMs = hour;

/** Removes imported images that nobody needs, from time to time, until the signal aborts. */
export async function runImportUpkeep(
  importer: Importer,
  held: HeldImages,
  neededImages: () => Promise<readonly HeldImage[]>,
  signal: AbortSignal,
  log: Logger,
): Promise<void> {
  while (!signal.aborted) {
    try {
      await importer.prune(new Set((await neededImages()).map(({ digest }) => digest)), held);
    } catch (error) {
      log.warn({ err: error }, "imported images could not be looked through; trying again later");
    }
    await nap(intervalMs, signal);
  }
}
