import { link, mkdir, readdir, rm } from "node:fs/promises";
import { extname, join } from "node:path";

import type { Logger } from "@roost/kit";

/** An image of the cache that something saved here depends on. */
export interface HeldImage {
  readonly path: string;
  /** `sha256:…` */
  readonly digest: string;
}

/**
 * Hard links to the images that sandboxes and templates of this host depend on: `<stateDir>/held-images/<digest>.<ext>`. While there is one, pruning the
 * cache leaves the image alone. Where the cache is on another file system there can be none, and its images must not be pruned by hand.
 */
export class HeldImages {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #held = new Set<string>();
  #isWarned = false;

  constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  /** Idempotent. An image that is not there is its user's to complain of. */
  async hold(...images: readonly HeldImage[]): Promise<void> {
    for (const image of images) {
      const name = nameOf(image);
      if (this.#held.has(name)) continue;
      await mkdir(this.#folder, { recursive: true, mode: 0o700 });
      await link(image.path, join(this.#folder, name)).catch((error: NodeJS.ErrnoException) => {
        if (error.code === "EXDEV" && !this.#isWarned) {
          this.#isWarned = true;
          this.#log.warn(
            {},
            "images and state are on different file systems: images that saved sandboxes need are not kept from being pruned",
          );
        }
      });
      this.#held.add(name);
    }
  }

  /** Nothing depends on it any more. */
  async release(image: HeldImage): Promise<void> {
    const name = nameOf(image);
    await rm(join(this.#folder, name), { force: true });
    this.#held.delete(name);
  }

  /** At start: holds these and no others. */
  async holdOnly(images: readonly HeldImage[]): Promise<void> {
    await this.hold(...images);
    const needed = new Set(images.map(nameOf));
    for (const name of await readdir(this.#folder).catch((): string[] => [])) {
      if (needed.has(name)) continue;
      await rm(join(this.#folder, name), { force: true });
      this.#held.delete(name);
    }
  }
}

function nameOf({ path, digest }: HeldImage): string {
  return `${digest.replace(/[^a-z0-9]+/g, "-")}${extname(path)}`;
}
