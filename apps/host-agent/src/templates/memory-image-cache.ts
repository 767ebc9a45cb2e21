import { createHash, randomBytes } from "node:crypto";
import { mkdir, readdir, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

import { run, second, syncFolder } from "@roost/kit";

import type { BaseTemplate, BootImages } from "../images/image-catalog.ts";
import { ImageFolder, type ImageFolderOptions } from "../memory/image-folder.ts";
import type { VmFingerprint } from "../vmm/driver.ts";

/** What the memory image of a base template follows from. */
export interface MemoryImageInputs {
  readonly template: BaseTemplate;
  readonly images: BootImages;
  readonly fingerprint: VmFingerprint;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Resolvers: written into the guest when it boots */
  readonly dnsServers: readonly string[];
}

/** Memory images kept, those that were used last; who started from another one holds links to its files. */
const keptMax = 12;
/** Time a copy to another file system has in `ms`: some hundred MiB. */
const copyTimeoutMs = 120 * second;
const newPrefix = ".new-";
/** An unfinished image older than this belongs to nobody, in `ms`: making one takes less than a minute. */
const abandonedMs = 3600 * second;

/**
 * Memory images of base templates: `<cacheDir>/memory/<key>/`, image folders named by what they follow from. Shared by all state folders
 * of the machine. A key is made once and never changed.
 */
export class MemoryImageCache {
  readonly #cacheRoot: string;
  readonly #localRoot: string;
  readonly #imageOptions: ImageFolderOptions;

  /** `localRoot`: where images are copied to when the cache is on another file system, so that they can be linked */
  constructor(roots: { readonly cacheRoot: string; readonly localRoot: string }, imageOptions: ImageFolderOptions) {
    this.#cacheRoot = roots.cacheRoot;
    this.#localRoot = roots.localRoot;
    this.#imageOptions = imageOptions;
  }

  keyOf(inputs: MemoryImageInputs): string {
    const { template, images, fingerprint, vcpus, memoryMib, dnsServers } = inputs;
    const said = JSON.stringify([
      "memory image 1",
      template.digest,
      template.diskSizeMib,
      images.kernel.digest,
      images.initramfs, // its folder is named by its content
      images.agentDisk.digest,
      Object.entries(fingerprint).sort(),
      vcpus,
      memoryMib,
      dnsServers,
    ]);
    return `${template.name}-${vcpus}x${memoryMib}-${createHash("sha256").update(said).digest("hex").slice(0, 24)}`;
  }

  /** The image of this key, where it can be linked from; undefined when it was not made yet. */
  async find(key: string): Promise<ImageFolder | undefined> {
    await this.#touch(key);
    const local = await this.#open(join(this.#localRoot, key));
    if (local !== undefined) return local;
    const cached = await this.#open(join(this.#cacheRoot, key));
    if (cached === undefined || (await this.#isLinkable())) return cached;
    return this.#copy(key);
  }

  /** A base file of these bytes, of any base template's image that is here: those are everybody's. */
  async findBase(digest: string, sizeBytes: number): Promise<string | undefined> {
    for (const root of [this.#localRoot, this.#cacheRoot]) {
      for (const key of (await readdir(root).catch((): string[] => [])).filter((name) => !name.startsWith("."))) {
        const images = await this.#open(join(root, key));
        const generation = await images?.current().catch(() => null); // a damaged one is no source
        const base = generation?.manifest.memory?.base;
        if (images !== undefined && base?.digest === digest && base.sizeBytes === sizeBytes) return images.basePath(base.file);
      }
    }
    return undefined;
  }

  /** Makes the image of this key: `fill` puts one generation into its folder. When somebody else made it meanwhile, that one stays. */
  async make(key: string, fill: (images: ImageFolder) => Promise<void>): Promise<void> {
    await mkdir(this.#cacheRoot, { recursive: true, mode: 0o711 });
    await this.#removeAbandoned();
    const staging = join(this.#cacheRoot, `${newPrefix}${randomBytes(8).toString("hex")}`);
    await mkdir(staging, { mode: 0o711 });
    try {
      const images = new ImageFolder(staging, this.#imageOptions);
      await images.create();
      await fill(images);
      await rename(staging, join(this.#cacheRoot, key)).catch(ignoreExisting);
      await syncFolder(this.#cacheRoot);
      for (const root of [this.#cacheRoot, this.#localRoot]) await this.#prune(root);
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
  }

  /** An image that turned out to be damaged: it is made anew when it is needed. */
  async forget(key: string): Promise<void> {
    for (const root of [this.#localRoot, this.#cacheRoot]) await rm(join(root, key), { recursive: true, force: true });
  }

  /** The images that were used last are kept. */
  async #touch(key: string): Promise<void> {
    const now = new Date();
    await utimes(join(this.#cacheRoot, key), now, now).catch(() => undefined); // not there
  }

  async #open(folder: string): Promise<ImageFolder | undefined> {
    const isThere = await stat(join(folder, "current")).then(
      () => true,
      () => false,
    );
    return isThere ? new ImageFolder(folder, this.#imageOptions) : undefined;
  }

  async #isLinkable(): Promise<boolean> {
    await mkdir(this.#localRoot, { recursive: true, mode: 0o711 });
    const [cache, local] = await Promise.all([stat(this.#cacheRoot), stat(this.#localRoot)]);
    return cache.dev === local.dev;
  }

  async #copy(key: string): Promise<ImageFolder | undefined> {
    const staging = join(this.#localRoot, `${newPrefix}${randomBytes(8).toString("hex")}`);
    try {
      await run(["/usr/bin/cp", "-a", "--sparse=always", join(this.#cacheRoot, key), staging], { timeoutMs: copyTimeoutMs });
      await rename(staging, join(this.#localRoot, key)).catch(ignoreExisting);
      await syncFolder(this.#localRoot);
      return await this.#open(join(this.#localRoot, key));
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
  }

  async #removeAbandoned(): Promise<void> {
    for (const root of [this.#cacheRoot, this.#localRoot]) await this.#removeAbandonedIn(root);
  }

  async #removeAbandonedIn(root: string): Promise<void> {
    for (const name of (await readdir(root).catch((): string[] => [])).filter((each) => each.startsWith(newPrefix))) {
      const folder = join(root, name);
      const changedMs = await stat(folder).then(
        (status) => status.mtimeMs,
        () => Number.POSITIVE_INFINITY, // gone
      );
      if (Date.now() - changedMs > abandonedMs) await rm(folder, { recursive: true, force: true });
    }
  }

  async #prune(root: string): Promise<void> {
    const names = (await readdir(root).catch((): string[] => [])).filter((name) => !name.startsWith("."));
    const dated = await Promise.all(
      names.map(async (name) => ({ name, timeMs: (await stat(join(root, name)).catch(() => undefined))?.mtimeMs ?? 0 })),
    );
    const old = dated.sort((one, other) => other.timeMs - one.timeMs).slice(keptMax);
    for (const { name } of old) await rm(join(root, name), { recursive: true, force: true });
  }
}

/** Somebody else made the same meanwhile: that one stays. */
function ignoreExisting(error: NodeJS.ErrnoException): void {
  if (error.code !== "ENOTEMPTY" && error.code !== "EEXIST") throw error;
}
