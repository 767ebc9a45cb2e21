import { createHash, randomBytes } from "node:crypto";
import { chmod, mkdir, open, readdir, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { join } from "node:path";

import { syncFolder, writeFileDurably, type Logger } from "@roost/kit";
import { z } from "zod";

import type { BaseTemplate } from "../images/image-catalog.ts";
import { freshImageMs, unusedImageMs } from "./limits.ts";
import { digestSchema, imageConfigSchema } from "./manifest.ts";

/** Changes when the same source is to give another disk. */
const formatVersion = 1;

/** `record.json`: what an imported image is beside its disk. */
const importedRecordSchema = z.object({
  formatVersion: z.literal(formatVersion),
  name: z.string().regex(/^image-[0-9a-f]{24}$/),
  sourceDigest: digestSchema,
  /** What was asked for, where that says nothing of what came of it: packages without versions; null: the source's digest says it all */
  request: digestSchema.nullable(),
  /** Of the disk's content */
  digest: digestSchema,
  diskSizeMib: z.int().positive(),
  config: imageConfigSchema,
  timeCreatedMs: z.int(),
});
export type ImportedRecord = z.infer<typeof importedRecordSchema>;

export interface ImportedImage {
  readonly record: ImportedRecord;
  /** Of the disk: raw, sparse, root's, 0444 */
  readonly path: string;
}

export const diskFile = "root.ext4";
const recordFile = "record.json";
const newPrefix = ".new-";
const trashPrefix = ".trash-";

/** `askedMib`: the size asked for; 0: none. A disk of another size is another image. */
export function imageNameOf(sourceDigest: string, askedMib: number): string {
  const inputs = JSON.stringify([formatVersion, sourceDigest, askedMib]);
  return `image-${createHash("sha256").update(inputs).digest("hex").slice(0, 24)}`;
}

/**
 * Imported images: `<folder>/<name>/` with the disk and `record.json`, whose modification time is that of the last use. One appears and disappears by one rename, and is never changed:
 * whatever is made of it names its path.
 */
export class ImageStore {
  readonly #folder: string;
  readonly #log: Logger;
  readonly #images = new Map<string, ImportedImage>();

  constructor(folder: string, log: Logger) {
    this.#folder = folder;
    this.#log = log;
  }

  /** At start: removes what was under way, reads what is there. */
  async recover(): Promise<void> {
    await mkdir(this.#folder, { recursive: true, mode: 0o711 });
    for (const name of await readdir(this.#folder)) {
      if (name.startsWith(".")) {
        await rm(join(this.#folder, name), { recursive: true, force: true });
        continue;
      }
      try {
        const record = importedRecordSchema.parse(JSON.parse(await readFile(join(this.#folder, name, recordFile), "utf8")));
        if (record.name === name) this.#keep(record);
      } catch (error) {
        this.#log.error({ err: error, image: name }, "an imported image cannot be read; leaving it alone");
      }
    }
  }

  list(): ImportedImage[] {
    return [...this.#images.values()].sort((one, other) => (one.record.name < other.record.name ? -1 : 1));
  }

  get(name: string): ImportedImage | undefined {
    return this.#images.get(name);
  }

  /** As a template's disk, which is used from now on. */
  async template(name: string): Promise<BaseTemplate | undefined> {
    const image = this.#images.get(name);
    if (image === undefined) return undefined;
    await this.touch(image);
    return toTemplate(image);
  }

  byRequest(request: string): ImportedImage | undefined {
    const found = this.list().filter(({ record }) => record.request === request);
    return found.sort((one, other) => other.record.timeCreatedMs - one.record.timeCreatedMs)[0];
  }

  async touch(image: ImportedImage): Promise<void> {
    const now = new Date();
    await utimes(join(this.#folder, image.record.name, recordFile), now, now);
  }

  /** A folder on the store's file system, root's; whoever made it removes it. */
  async createStaging(): Promise<string> {
    const folder = join(this.#folder, `${newPrefix}${randomBytes(8).toString("hex")}`);
    await mkdir(folder, { mode: 0o711 });
    return folder;
  }

  /** Removes a staging folder, unless it was published. */
  async removeStaging(staging: string): Promise<void> {
    await rm(staging, { recursive: true, force: true });
  }

  /** Makes the image of a staging folder that has the disk. Durable when this returns. */
  async publish(staging: string, record: Omit<ImportedRecord, "formatVersion">): Promise<ImportedImage> {
    const whole = { formatVersion, ...record } as const;
    const disk = join(staging, diskFile);
    await chmod(disk, 0o444);
    {
      await using file = await open(disk, "r");
      await file.sync();
    }
    await writeFileDurably(join(staging, recordFile), `${JSON.stringify(whole)}\n`);
    await rename(staging, join(this.#folder, record.name));
    await syncFolder(this.#folder);
    return this.#keep(whole);
  }

  /** Removes images that nobody used for long, and, of those that are not fresh, the least recently used above `bytesMax`; never one of `needed` (digests). Returns them. */
  async prune(needed: ReadonlySet<string>, bytesMax: number, nowMs: number = Date.now()): Promise<ImportedImage[]> {
    const found: { readonly image: ImportedImage; readonly usedMs: number; readonly bytes: number }[] = [];
    for (const image of this.#images.values()) {
      const [record, disk] = await Promise.all([stat(join(this.#folder, image.record.name, recordFile)), stat(image.path)]);
      found.push({ image, usedMs: record.mtimeMs, bytes: disk.blocks * 512 });
    }
    let bytes = found.reduce((sum, each) => sum + each.bytes, 0);
    const removed: ImportedImage[] = [];
    for (const each of found.sort((one, other) => one.usedMs - other.usedMs)) {
      const idleMs = nowMs - each.usedMs;
      const isDue = idleMs > unusedImageMs || (bytes > bytesMax && idleMs > freshImageMs);
      if (!isDue || needed.has(each.image.record.digest)) continue;
      await this.#remove(each.image);
      bytes -= each.bytes;
      removed.push(each.image);
    }
    return removed;
  }

  async #remove({ record }: ImportedImage): Promise<void> {
    this.#images.delete(record.name);
    const trash = join(this.#folder, `${trashPrefix}${randomBytes(8).toString("hex")}`);
    await rename(join(this.#folder, record.name), trash);
    await syncFolder(this.#folder);
    await rm(trash, { recursive: true, force: true });
  }

  #keep(record: ImportedRecord): ImportedImage {
    const image = { record, path: join(this.#folder, record.name, diskFile) };
    this.#images.set(record.name, image);
    return image;
  }
}

export function toTemplate({ record, path }: ImportedImage): BaseTemplate {
  return { name: record.name, path, digest: record.digest, diskSizeMib: record.diskSizeMib };
}
