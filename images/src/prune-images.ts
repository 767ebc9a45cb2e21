import { lockCache } from "./cache-lock.ts";
import { ImageCache } from "./image-cache.ts";

export interface PruneImagesOptions {
  readonly cacheDir: string;
  /** Paths of images, relative to the folder, that are still in use although they are no longer current. */
  readonly keep?: readonly string[];
  readonly signal?: AbortSignal;
}

/** Removes the images that `images.json` no longer names; returns the removed folders. */
export async function pruneImages(options: PruneImagesOptions): Promise<readonly string[]> {
  const cache = new ImageCache(options.cacheDir);
  await cache.create();
  await using _lock = await lockCache(cache.lockFile, options.signal === undefined ? {} : { signal: options.signal });
  await cache.sweepTemporaryFolders();
  return cache.prune(options.keep ?? []);
}
