import { chown, lstat, mkdir, mkdtemp, readdir, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

import type { Descriptor } from "./manifest.ts";

/** Prefix of folders that a fetch works in; what a crash leaves of them the next start removes */
const workPrefix = "work-";

/**
 * Layers and configurations as registries have them: `<folder>/blobs/sha256/<hex>`, the form in which skopeo shares them between images. They belong to the unprivileged uid that
 * skopeo runs as; whoever reads a blob compares its digest. The least recently used go when there is too much.
 */
export class BlobCache {
  readonly folder: string;
  readonly #uid: number;
  readonly #bytesMax: number;
  /** Digests that imports under way need, and how many do */
  readonly #inUse = new Map<string, number>();

  constructor(folder: string, uid: number, bytesMax: number) {
    this.folder = folder;
    this.#uid = uid;
    this.#bytesMax = bytesMax;
  }

  /** At start: removes what fetches left behind. */
  async recover(): Promise<void> {
    for (const name of await namesIn(this.folder)) {
      if (name.startsWith(workPrefix)) await rm(join(this.folder, name), { recursive: true, force: true });
    }
    await this.prune();
  }

  path(digest: string): string {
    return join(this.#blobs, digest.slice("sha256:".length));
  }

  /** Makes what there must be before anything is fetched. */
  async prepare(): Promise<void> {
    // What a chown goes to lies in a folder of root's, so nobody else can have put a link there
    await mkdir(join(this.folder, "blobs"), { recursive: true, mode: 0o711 });
    await mkdir(this.#blobs, { recursive: true, mode: 0o700 });
    await chown(this.#blobs, this.#uid, this.#uid);
  }

  /** A folder in the cache's own, which only root or only the unprivileged uid may write; its name. */
  async createWorkFolder(owner: "root" | "unprivileged"): Promise<string> {
    await this.prepare();
    const folder = await mkdtemp(join(this.folder, workPrefix));
    if (owner === "unprivileged") await chown(folder, this.#uid, this.#uid);
    return folder.slice(this.folder.length + 1);
  }

  async removeWorkFolder(name: string): Promise<void> {
    await rm(join(this.folder, name), { recursive: true, force: true });
  }

  /** Keeps blobs from being pruned until the result is called. */
  use(digests: readonly string[]): () => void {
    for (const digest of digests) this.#inUse.set(digest, (this.#inUse.get(digest) ?? 0) + 1);
    return () => {
      for (const digest of digests) {
        const left = (this.#inUse.get(digest) ?? 1) - 1;
        if (left === 0) this.#inUse.delete(digest);
        else this.#inUse.set(digest, left);
      }
    };
  }

  /** Those of `blobs` that are not here; one of another size than it should have is removed. */
  async missing<Blob extends Descriptor>(blobs: readonly Blob[]): Promise<Blob[]> {
    const missing: Blob[] = [];
    for (const blob of blobs) {
      const status = await lstat(this.path(blob.digest)).catch(() => undefined); // not there, or not to be read: the same
      if (status?.isFile() === true && status.size === blob.size) {
        const now = new Date();
        await utimes(this.path(blob.digest), now, now);
        continue;
      }
      if (status !== undefined) await this.remove(blob.digest);
      missing.push(blob);
    }
    return missing;
  }

  async remove(digest: string): Promise<void> {
    await rm(this.path(digest), { recursive: true, force: true });
  }

  /** What lies in a work folder and the cache for these blobs, in `bytes`: how far a fetch is. */
  async fetchedBytes(work: string, blobs: readonly Descriptor[]): Promise<number> {
    let bytes = 0;
    const paths = blobs.map(({ digest }) => this.path(digest));
    for (const name of await namesIn(join(this.folder, work))) {
      const inside = join(this.folder, work, name);
      const more = await namesIn(inside);
      paths.push(inside, ...more.map((each) => join(inside, each)));
    }
    for (const path of paths) {
      const status = await lstat(path).catch(() => undefined); // renamed just now: counted next time
      if (status?.isFile() === true) bytes += status.size;
    }
    return bytes;
  }

  /** Removes the least recently used blobs until the rest is within its limit. */
  async prune(): Promise<void> {
    const found: { readonly path: string; readonly bytes: number; readonly usedMs: number; readonly digest: string }[] = [];
    for (const name of await namesIn(this.#blobs)) {
      const path = join(this.#blobs, name);
      const status = await stat(path).catch(() => undefined); // removed meanwhile
      if (status === undefined) continue;
      found.push({ path, bytes: status.blocks * 512, usedMs: status.mtimeMs, digest: `sha256:${name}` });
    }
    let bytes = found.reduce((sum, each) => sum + each.bytes, 0);
    for (const each of found.sort((one, other) => one.usedMs - other.usedMs)) {
      if (bytes <= this.#bytesMax) return;
      if (this.#inUse.has(each.digest)) continue;
      await rm(each.path, { recursive: true, force: true });
      bytes -= each.bytes;
    }
  }

  get #blobs(): string {
    return join(this.folder, "blobs", "sha256");
  }
}

/** Empty for what is no folder, or not there. */
async function namesIn(folder: string): Promise<string[]> {
  return readdir(folder).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" || error.code === "ENOTDIR") return [];
    throw error;
  });
}
