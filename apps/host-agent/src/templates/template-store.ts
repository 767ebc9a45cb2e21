import { randomBytes } from "node:crypto";
import { mkdir, readdir, readFile, rename, rm } from "node:fs/promises";
import { basename, join } from "node:path";

import { PlatformError, sandboxIdSchema, templateDefaultsSchema, templateNameSchema } from "@roost/contract";
import { assert, must, syncFolder, writeFileDurably } from "@roost/kit";
import { z } from "zod";

import { ImageFolder, type Generation, type ImageFolderOptions } from "../memory/image-folder.ts";

/** `snapshot`: what users make of their sandboxes · `step`: of a build, kept while there is room · `build`: what a build ended with */
export const templateKinds = ["snapshot", "step", "build"] as const;
export type TemplateKind = (typeof templateKinds)[number];

/** `template.json`: what a template is beside its images. */
export const templateRecordSchema = z.object({
  formatVersion: z.literal(1),
  name: templateNameSchema,
  kind: z.enum(templateKinds).default("snapshot"),
  timeCreatedMs: z.int(),
  sourceSandboxId: sandboxIdSchema,
  diskSizeMib: z.int().positive(),
  /** Sizes of every sandbox from it; null: it has no memory, so any will do */
  sizes: z.object({ vcpus: z.int().positive(), memoryMib: z.int().positive() }).nullable(),
  /** Token that the guest in its memory obeys; null: none, or no memory */
  guestToken: z.string().max(512).nullable(),
  /** What its sandboxes get unless they ask for something else */
  defaults: templateDefaultsSchema.prefault({}),
});
export type TemplateRecord = z.infer<typeof templateRecordSchema>;

export interface Template {
  readonly record: TemplateRecord;
  readonly images: ImageFolder;
}

/** Called and awaited between the steps; what it throws makes them fail. For tests. */
export type TemplateStoreStep = (step: "template:filled" | "template:renamed" | "template:trashed") => Promise<void> | void;

export const recordFile = "template.json";
/** Stands for the ':' of a name in its folder's name: tools take what is before a ':' for a protocol or a host */
const tagSeparator = "@";
/** Between a folder's name and what tells it from the folder that it replaced */
const successorSeparator = "~";
/** A template on its way in, one that is replaced, one on its way out */
const newPrefix = ".new-";
const oldPrefix = ".old-";
const trashPrefix = ".trash-";

/**
 * The templates that were made of sandboxes: `<stateDir>/templates/<name>/` (`<name>@<tag>/`), each an image folder with a `template.json`. A template
 * appears and disappears by one rename, and nothing in it is ever edited: who started from it holds links to its files. One that replaces
 * another has a folder of its own (`<name>~<random>/`), so that whoever still works in the old one finds nothing there, rather than something else.
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
      const folder = name.slice(oldPrefix.length);
      // Replaced: if the new one did not make it, the old one is back
      const isReplaced = names.some((each) => !each.startsWith(".") && withoutSuccessor(each) === withoutSuccessor(folder));
      if (isReplaced) await rm(join(this.root, name), { recursive: true, force: true });
      else await rename(join(this.root, name), join(this.root, folder));
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
      return this.#keep(record, this.#folder(name));
    } catch (error) {
      await rm(staging, { recursive: true, force: true });
      throw error;
    } finally {
      this.#changing.delete(name);
    }
  }

  /** Puts another template in the place of `present`; undefined when that was removed or replaced meanwhile. */
  async replace(
    present: Template,
    record: TemplateRecord,
    fill: (images: ImageFolder) => Promise<Generation>,
  ): Promise<Template | undefined> {
    const { name } = record;
    assert(present.record.name === name, "a template is replaced by one of its name");
    const staging = join(this.root, `${newPrefix}${randomBytes(8).toString("hex")}`);
    try {
      await this.#fill(staging, record, fill);
      if (this.#templates.get(name) !== present || this.#changing.has(name)) return undefined;
      this.#changing.add(name);
      try {
        const { folder } = present.images;
        const old = join(this.root, oldPrefix + basename(folder));
        await rename(folder, old);
        const successor = this.#folder(name) + successorSeparator + randomBytes(4).toString("hex");
        await rename(staging, successor);
        await syncFolder(this.root);
        const template = this.#keep(record, successor);
        await rm(old, { recursive: true, force: true });
        return template;
      } finally {
        this.#changing.delete(name);
      }
    } finally {
      await rm(staging, { recursive: true, force: true });
    }
  }

  /** Removes a template; false when there is none. */
  async remove(name: string): Promise<boolean> {
    const template = this.#templates.get(name);
    if (template === undefined || this.#changing.has(name)) return false;
    this.#changing.add(name);
    try {
      const trash = join(this.root, `${trashPrefix}${randomBytes(8).toString("hex")}`);
      await rename(template.images.folder, trash);
      this.#templates.delete(name);
      await this.#onStep("template:trashed");
      await syncFolder(this.root);
      await rm(trash, { recursive: true, force: true }).catch((error: unknown) =>
        this.#imageOptions.log.warn(
          { err: error, template: name, trash },
          "what is left of a removed template takes room until the next start",
        ),
      );
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

  async #read(folder: string): Promise<void> {
    const { log } = this.#imageOptions;
    const name = withoutSuccessor(folder).replace(tagSeparator, ":");
    try {
      const record = templateRecordSchema.parse(JSON.parse(await readFile(join(this.root, folder, recordFile), "utf8")));
      assert(record.name === name, "a template lies in the folder of its name");
      const { images } = this.#keep(record, join(this.root, folder));
      const report = await images.recover();
      if (report.damaged.length > 0) log.error({ template: name, damaged: report.damaged }, "a template is damaged");
    } catch (error) {
      log.error({ err: error, template: name }, "a template cannot be read; leaving it alone");
    }
  }

  #keep(record: TemplateRecord, folder: string): Template {
    const template = { record, images: new ImageFolder(folder, this.#imageOptions) };
    this.#templates.set(record.name, template);
    return template;
  }

  #folder(name: string): string {
    must(templateNameSchema.safeParse(name).data, "a template's name is checked before it becomes a path");
    return join(this.root, folderName(name));
  }
}

function withoutSuccessor(folder: string): string {
  return folder.split(successorSeparator, 1)[0] ?? folder;
}

function folderName(name: string): string {
  return name.replace(":", tagSeparator);
}

export function existsError(name: string): PlatformError {
  return new PlatformError("snapshot_exists", `there is a template named '${name}' already; choose another name, or delete it first`);
}
