import { mkdir, mkdtemp, readdir, readFile, rename, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { imageSetFileName, imageSetSchema, type ImageSet } from "@roost/contract";
import { syncFolder, writeFileDurably } from "@roost/kit";

import { builtPartSchema, type BuiltPart } from "./part.ts";

const memoFolder = "inputs";
const temporaryPrefix = "tmp-";

/**
 * The folder the images live in:
 *
 *     images.json                what new sandboxes start with; replaced as a whole
 *     <part>-<digest>/           a published part; never changed, only ever removed as a whole by prune
 *     inputs/<part>-<digest>.json  which inputs led to which part
 *     tmp-*                      a build in progress; what a crash left of one is removed by the next, under the lock
 */
export class ImageCache {
  readonly folder: string;

  constructor(folder: string) {
    this.folder = folder;
  }

  get lockFile(): string {
    return join(this.folder, "lock");
  }

  async create(): Promise<void> {
    await mkdir(join(this.folder, memoFolder), { recursive: true });
  }

  /** The current images; undefined when there are none, or the file is not one this version understands. */
  async readImageSet(): Promise<ImageSet | undefined> {
    const parsed = imageSetSchema.safeParse(await readJson(join(this.folder, imageSetFileName)));
    return parsed.success ? parsed.data : undefined;
  }

  /** Makes `images` the current ones, durably; nothing is written when they already are. */
  async writeImageSet(images: ImageSet): Promise<void> {
    const text = `${JSON.stringify(images, null, 2)}\n`;
    const path = join(this.folder, imageSetFileName);
    if ((await readText(path)) !== text) await writeFileDurably(path, text);
  }

  /** The part that these inputs led to before, if it is still there. */
  async findPart(name: string, inputsDigest: string): Promise<BuiltPart | undefined> {
    const parsed = builtPartSchema.safeParse(await readJson(this.#memoPath(name, inputsDigest)));
    if (!parsed.success) return undefined;
    return (await exists(join(this.folder, parsed.data.path))) ? parsed.data : undefined;
  }

  async rememberPart(name: string, inputsDigest: string, part: BuiltPart): Promise<void> {
    await writeFileDurably(this.#memoPath(name, inputsDigest), `${JSON.stringify(part, null, 2)}\n`);
  }

  /** A folder to build in, on the file system it will be published on. */
  async createTemporaryFolder(name: string): Promise<string> {
    return mkdtemp(join(this.folder, `${temporaryPrefix}${name}-`));
  }

  /** Removes what crashed builds left. Only with the lock held: another builder's folder looks the same. */
  async sweepTemporaryFolders(): Promise<void> {
    for (const entry of await readdir(this.folder)) {
      if (entry.startsWith(temporaryPrefix)) await rm(join(this.folder, entry), { recursive: true, force: true });
    }
  }

  /** Publishes a finished folder under its name, all at once; content that is already there stays, and the new copy goes. */
  async publish(builtFolder: string, folderName: string): Promise<void> {
    const target = join(this.folder, folderName);
    if (await exists(target)) return;
    await rename(builtFolder, target);
    await syncFolder(this.folder);
  }

  /**
   * Removes every part that neither `images.json` nor `keep` (paths relative to the cache) names; returns what was removed. A part whose files have other names
   * elsewhere stays: host agents hold what saved sandboxes depend on by hard links.
   */
  async prune(keep: readonly string[]): Promise<readonly string[]> {
    const current = await this.readImageSet();
    const kept = new Set([...keep, ...imagePaths(current)].map((path) => path.split("/")[0]));
    const removed: string[] = [];
    for (const entry of await readdir(this.folder, { withFileTypes: true })) {
      if (!entry.isDirectory() || entry.name === memoFolder || entry.name.startsWith(temporaryPrefix) || kept.has(entry.name)) continue;
      if (await this.#isHeld(entry.name)) continue;
      // Out of sight at once, removed afterwards: nobody finds half a part.
      const doomed = join(this.folder, `${temporaryPrefix}pruned-${entry.name}`);
      await rename(join(this.folder, entry.name), doomed);
      await rm(doomed, { recursive: true, force: true });
      removed.push(entry.name);
    }
    await this.#forgetMissingParts();
    return removed;
  }

  async #isHeld(part: string): Promise<boolean> {
    for (const name of await readdir(join(this.folder, part))) {
      const status = await stat(join(this.folder, part, name));
      if (status.isFile() && status.nlink > 1) return true;
    }
    return false;
  }

  async #forgetMissingParts(): Promise<void> {
    for (const entry of await readdir(join(this.folder, memoFolder))) {
      const path = join(this.folder, memoFolder, entry);
      const memo = builtPartSchema.safeParse(await readJson(path));
      if (!memo.success || !(await exists(join(this.folder, memo.data.folder)))) await rm(path, { force: true });
    }
  }

  #memoPath(name: string, inputsDigest: string): string {
    return join(this.folder, memoFolder, `${name}-${inputsDigest.slice("sha256:".length, "sha256:".length + 32)}.json`);
  }
}

/** Every path an image set names, relative to the cache. */
export function imagePaths(images: ImageSet | undefined): readonly string[] {
  if (images === undefined) return [];
  return [images.kernel, images.initramfs, images.agentDisk, ...Object.values(images.templates)].map((file) => file.path);
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  );
}

async function readText(path: string): Promise<string | undefined> {
  try {
    return await readFile(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return undefined;
    throw error;
  }
}

/** Undefined for a file that is missing or not JSON: what a memo cannot tell is built again. */
async function readJson(path: string): Promise<unknown> {
  const text = await readText(path);
  try {
    return text === undefined ? undefined : JSON.parse(text);
  } catch {
    return undefined;
  }
}
