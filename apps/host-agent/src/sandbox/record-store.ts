import { mkdir, readdir, readFile, rename, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { sandboxIdPattern } from "@roost/contract";
import { assert, syncFolder, writeFileDurably, type Logger, type SecretBox } from "@roost/kit";

import { ImageFolder, type ImageFolderOptions } from "../memory/image-folder.ts";
import { sandboxRecordSchema, type SandboxRecord } from "./sandbox-record.ts";
import { fromFile, toFile } from "./sealed-record.ts";

/** Longest guest console kept of a failed sandbox in `bytes` */
export const consoleBytesMax = 64 * 1024;

/**
 * The folders of sandboxes: `<stateDir>/sandboxes/<id>/`
 *
 *     sandbox.json   the record (0600: it holds the access token)
 *     last-active    instant of the last activity, newer than the record's; not fsynced
 *     disk/ memory/ generations/ current      an image folder: see memory/image-folder.ts
 *     vm/            the driver's, as long as the VM lives
 *     console.log    what a failed sandbox's console said last
 */
export class RecordStore {
  readonly root: string;
  readonly #brokenRoot: string;
  readonly #log: Logger;
  readonly #imageOptions: ImageFolderOptions;

  readonly #box: SecretBox;

  /** `box`: seals what the files must not show */
  constructor(stateDir: string, imageOptions: ImageFolderOptions, box: SecretBox) {
    this.root = join(stateDir, "sandboxes");
    this.#box = box;
    this.#brokenRoot = join(stateDir, "broken");
    this.#log = imageOptions.log;
    this.#imageOptions = imageOptions;
  }

  folder(sandboxId: string): string {
    assert(sandboxIdPattern.test(sandboxId), "a sandbox id is checked before it becomes a path");
    return join(this.root, sandboxId);
  }

  vmFolder(sandboxId: string): string {
    return join(this.folder(sandboxId), "vm");
  }

  /** Disk and generations of a sandbox. */
  images(sandboxId: string): ImageFolder {
    return this.imagesAt(this.folder(sandboxId));
  }

  /** Those of a folder that is to become a sandbox's. */
  imagesAt(folder: string): ImageFolder {
    return new ImageFolder(folder, this.#imageOptions);
  }

  /** Makes the sandbox's folder durable, and its first record in it. */
  async create(record: SandboxRecord): Promise<void> {
    const folder = this.folder(record.spec.sandboxId);
    await mkdir(folder, { mode: 0o711 }); // others may pass through to what is theirs, and list nothing
    await this.#write(folder, record);
    await syncFolder(this.root);
  }

  /** Turns a folder of another place of this file system into that of a sandbox, with its first record. Atomic: it is one or the other. */
  async adopt(folder: string, record: SandboxRecord): Promise<void> {
    await this.#write(folder, record);
    await rename(folder, this.folder(record.spec.sandboxId));
    await syncFolder(this.root);
  }

  async write(record: SandboxRecord): Promise<void> {
    await this.#write(this.folder(record.spec.sandboxId), record);
  }

  async writeLastActive(sandboxId: string, timeMs: number): Promise<void> {
    await writeFile(join(this.folder(sandboxId), "last-active"), String(timeMs), { mode: 0o600 });
  }

  async writeConsole(sandboxId: string, bytes: Uint8Array): Promise<void> {
    await writeFile(join(this.folder(sandboxId), "console.log"), bytes.subarray(-consoleBytesMax), { mode: 0o600 });
  }

  async readConsole(sandboxId: string): Promise<Buffer> {
    return readFile(join(this.folder(sandboxId), "console.log")).catch(() => Buffer.alloc(0)); // none was kept
  }

  /** Removes disk and generations; the record stays. */
  async removeImages(sandboxId: string): Promise<void> {
    for (const part of ["current", "generations", "memory", "disk"])
      await rm(join(this.folder(sandboxId), part), { recursive: true, force: true });
  }

  async remove(sandboxId: string): Promise<void> {
    await rm(this.folder(sandboxId), { recursive: true, force: true });
    await syncFolder(this.root);
  }

  /**
   * All records, at start. A folder without a record is the beginning of a create that nobody was told of: it is removed.
   * A record that cannot be read is not thrown away: its folder is put aside for people to look at.
   */
  async load(): Promise<SandboxRecord[]> {
    await mkdir(this.root, { recursive: true, mode: 0o711 });
    const records: SandboxRecord[] = [];
    for (const entry of await readdir(this.root, { withFileTypes: true })) {
      const id = entry.name;
      if (!entry.isDirectory() || !sandboxIdPattern.test(id)) {
        this.#log.warn({ name: id }, "something that is not ours lies among the sandboxes; leaving it alone");
        continue;
      }
      const record = await this.#read(id);
      if (record !== undefined) records.push(record);
    }
    return records;
  }

  async #write(folder: string, record: SandboxRecord): Promise<void> {
    const text = `${JSON.stringify(toFile(sandboxRecordSchema.parse(record), this.#box))}\n`;
    await writeFileDurably(join(folder, "sandbox.json"), text, { mode: 0o600 });
  }

  async #read(id: string): Promise<SandboxRecord | undefined> {
    const folder = this.folder(id);
    let text: string;
    try {
      text = await readFile(join(folder, "sandbox.json"), "utf8");
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      this.#log.info({ sandboxId: id }, "removing a folder without a record: its create was never acknowledged");
      await rm(folder, { recursive: true, force: true });
      return undefined;
    }
    try {
      const record = sandboxRecordSchema.parse(fromFile(JSON.parse(text), this.#box));
      if (record.spec.sandboxId !== id) throw new Error(`is the record of ${record.spec.sandboxId}`);
      const lastActiveMs = Number(await readFile(join(folder, "last-active"), "latin1").catch(() => Number.NaN)); // absent: nothing newer
      return lastActiveMs > record.timeLastActiveMs && lastActiveMs <= Date.now() ? { ...record, timeLastActiveMs: lastActiveMs } : record;
    } catch (error) {
      await mkdir(this.#brokenRoot, { recursive: true, mode: 0o700 });
      const aside = join(this.#brokenRoot, `${id}-${Date.now()}`);
      await rename(folder, aside);
      this.#log.error({ err: error, sandboxId: id, aside }, "a sandbox's record cannot be read; its folder was put aside");
      return undefined;
    }
  }
}
