import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError, sandboxIdSchema, templateNameSchema } from "@roost/contract";
import { assert, must, syncFolder, writeFileDurably } from "@roost/kit";
import { z } from "zod";

import { ImageFolder, type Generation, type ImageFolderOptions } from "../memory/image-folder.ts";

/** `template.json`: what a template is beside its images. */
export const templateRecordSchema = z.object({
  formatVersion: z.literal(1),
  name: templateNameSchema,
  timeCreatedMs: z.int(),
  sourceSandboxId: sandboxIdSchema,
  diskSizeMib: z.int().positive(),
  /** Sizes of every sandbox from it; null: it has no memory, so any will do */
  sizes: z.object({ vcpus: z.int().positive(), memoryMib: z.int().positive() }).nullable(),
  /** Token that the guest in its memory obeys; null: none, or no memory */
  guestToken: z.string().max(512).nullable(),
});
export type TemplateRecord = z.infer<typeof templateRecordSchema>;

export interface Template {
  readonly record: TemplateRecord;
  readonly images: ImageFolder;
}

/** Called and awaited between the steps; what it throws makes them fail. For tests. */
export type TemplateStoreStep = (step: "template:filled" | "template:renamed" | "template:trashed") => Promise<void> | void;

const recordFile = "template.json";
/** A template on its way in, one that is replaced, one on its way out */
const newPrefix = ".new-";
const oldPrefix = ".old-";
const trashPrefix = ".trash-";

/**
 * The templates that were made of sandboxes: `<stateDir>/templates/<name>/`, each an image folder with a `template.json`. A template appears and
 * disappears by one rename, and nothing in it is ever edited: who started from it holds links to its files.
 */
export class TemplateStore {
  readonly root: string;
  readonly #imageOptions: ImageFolderOptions;
  readonly #onStep: TemplateStoreStep;
  readonly #templates = new Map<string, Template>();
  /** Names of templates that are being made or removed */
  readonly #changing = new Set<string>();

  constructor(root: string, imageOptions: ImageFolderOptions, onStep: TemplateStoreStep = () => undefined) {
    this.root = root;
    this.#imageOptions = imageOptions;
    this.#onStep = onStep;
  }

  list(): Template[] {
    return [...this.#templates.values()].sort((one, other) => (one.record.name < other.record.name ? -1 : 1));
  }

  get(name: string): Template | undefined {
    return this.#templates.get(name);
  }

  /** At start: finishes or undoes what was under way, then reads what is there. */
  async recover(): Promise<void> {
    await mkdir(this.root, { recursive: true, mode: 0o711 });
    const names = await readdir(this.root);
    for (const name of names.filter((each) => each.startsWith(oldPrefix))) {
      const template = name.slice(oldPrefix.length);
      // Replaced: if the new one did not make it, the old one is back
      if (names.includes(template)) await rm(join(this.root, name), { recursive: true, force: true });
      else await rename(join(this.root, name), join(this.root, template));
    }
    for (const name of names.filter((each) => each.startsWith(newPrefix) || each.startsWith(trashPrefix))) {
      await rm(join(this.root, name), { recursive: true, force: true });
    }
    for (const name of (await readdir(this.root)).filter((each) => !each.startsWith("."))) await this.#read(name);
  }

  /** Makes a template: `fill` puts one generation into its image folder. Rejects with `snapshot_exists`. */
  async create(record: TemplateRecord, fill: (images: ImageFolder) => Promise<Generation>): Promise<Template> {
    const { name } = record;
    if (this.#templates.has(name) || this.#changing.has(name)) throw existsError(name);
    this.#changing.add(name);
    const staging = join(this.root, `${newPrefix}${randomBytes(8).toString("hex")}`);
    try {
      await this.#fill(staging, record, fill);
      await this.#onStep("template:filled");
      await rename(staging, this.#folder(name));
      await this.#onStep("template:renamed");
      await syncFolder(this.root);
      return this.#keep(record);
    } catch (error) {
      await rm(staging, { recursive: true, force: true });
      throw error;
    } finally {
      this.#changing.delete(name);
    }
  }

  /** The same template with other images. Does nothing when it was removed meanwhile. */
  async replace(record: TemplateRecord, fill: (images: ImageFolder) => Promise<Generation>): Promise<void> {
    const { name } = record;
    const staging = join(this.root, `${newPrefix}${randomBytes(8).toString("hex")}`);
    try {
      await this.#fill(staging, record, fill);
      if (!this.#templates.has(name) || this.#changing.has(name)) return;
      const old = join(this.root, oldPrefix + name);
      await rename(this.#folder(name), old);
      await rename(staging, this.#folder(name));
      await syncFolder(this.root);
      this.#keep(record);
      await rm(old, { recursive: true, force: true });
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
  }

  /** Removes a template; false when there is none. */
  async remove(name: string): Promise<boolean> {
    if (!this.#templates.has(name) || this.#changing.has(name)) return false;
    this.#changing.add(name);
    try {
      const trash = join(this.root, `${trashPrefix}${randomBytes(8).toString("hex")}`);
      await rename(this.#folder(name), trash);
      this.#templates.delete(name);
      await this.#onStep("template:trashed");
      await syncFolder(this.root);
      await rm(trash, { recursive: true, force: true });
      return true;
    } finally {
      this.#changing.delete(name);
    }
  }

  async #fill(staging: string, record: TemplateRecord, fill: (images: ImageFolder) => Promise<Generation>): Promise<void> {
    await mkdir(staging, { mode: 0o711 });
    const images = new ImageFolder(staging, this.#imageOptions);
    await images.create();
    await fill(images);
    await writeFileDurably(join(staging, recordFile), `${JSON.stringify(record)}\n`, { mode: 0o600 });
  }

  async #read(name: string): Promise<void> {
    const { log } = this.#imageOptions;
    try {
      const record = templateRecordSchema.parse(JSON.parse(await readFile(join(this.#folder(name), recordFile), "utf8")));
      assert(record.name === name, "a template lies in the folder of its name");
      const { images } = this.#keep(record);
      const report = await images.recover();
      if (report.damaged.length > 0) log.error({ template: name, damaged: report.damaged }, "a template is damaged");
    } catch (error) {
      log.error({ err: error, template: name }, "a template cannot be read; leaving it alone");
    }
  }

  #keep(record: TemplateRecord): Template {
    const template = { record, images: new ImageFolder(this.#folder(record.name), this.#imageOptions) };
    this.#templates.set(record.name, template);
    return template;
  }

  #folder(name: string): string {
    must(templateNameSchema.safeParse(name).data, "a template's name is checked before it becomes a path");
    return join(this.root, name);
  }
}

export function existsError(name: string): PlatformError {
  return new PlatformError("snapshot_exists", `there is a template named '${name}' already; choose another name, or delete it first`);
}
