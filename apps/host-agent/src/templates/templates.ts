import {
  hostTemplateNames,
  isHostTemplateName,
  memoryMibDefault,
  noTemplateDefaults,
  PlatformError,
  vcpusDefault,
  type TemplateDefaults,
} from "@roost/contract";
import { sleep, type Logger } from "@roost/kit";

import type { HeldImage } from "../images/held-images.ts";
import type { BaseTemplate } from "../images/image-catalog.ts";
import type { DamagedGeneration, Generation, ImageFolder } from "../memory/image-folder.ts";
import { occupiedBytes } from "../memory/occupied-bytes.ts";
import { bootSource } from "../sandbox/boot-source.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import { whyStale } from "../sandbox/restorable.ts";
import type { SandboxRecord } from "../sandbox/sandbox-record.ts";
import { savedDisk, type StartSource } from "../sandbox/start-vm.ts";
import { BackgroundJobs } from "./background-jobs.ts";
import { buildMemoryImage } from "./image-builder.ts";
import type { MemoryImageCache } from "./memory-image-cache.ts";
import type { StepCache } from "./step-cache.ts";
import { existsError, type Template, type TemplateKind, type TemplateRecord, type TemplateStore } from "./template-store.ts";
import { TemplateUpkeep } from "./template-upkeep.ts";

export interface Sizes {
  readonly vcpus: number;
  readonly memoryMib: number;
}

/** A template that sandboxes can be made of, built from packages or from a sandbox. */
export type ResolvedTemplate =
  | {
      readonly kind: "base";
      readonly name: string;
      readonly diskSizeMib: number;
      readonly sizes: null;
      readonly defaults: TemplateDefaults;
      readonly base: BaseTemplate;
    }
  | {
      readonly kind: "snapshot";
      readonly name: string;
      readonly diskSizeMib: number;
      readonly sizes: Sizes | null;
      readonly defaults: TemplateDefaults;
      readonly template: Template;
    };

/** How a sandbox of a template starts, when its image folder is filled. */
export interface Beginning {
  readonly source: StartSource;
  /** What its record says of where it comes from */
  readonly origin: Partial<SandboxRecord>;
  /** Token that the guest in its memory obeys; null: none */
  readonly guestToken: string | null;
}

export interface TemplatesParts {
  readonly context: SandboxContext;
  readonly store: TemplateStore;
  readonly cache: MemoryImageCache;
  readonly steps: StepCache;
  /** The disk of an imported image of that name */
  readonly imported: (name: string) => Promise<BaseTemplate | undefined>;
  /** Folder for VMs that only make images */
  readonly buildsFolder: string;
  /** Whether memory images of base templates are made, in the background, and used; and those of others kept small and up to date */
  readonly buildsImages: boolean;
  readonly log: Logger;
}

interface Replace {
  /** A template of the name that was made of a sandbox gives way */
  readonly replace: boolean;
}

/** What sandboxes start from on this host, and how: memory where there is some that fits, else a boot, and then memory for the next one. */
export class Templates {
  readonly #parts: TemplatesParts;
  readonly #jobs: BackgroundJobs;
  readonly #upkeep: TemplateUpkeep;
  /** Steps that are being made, by name */
  readonly #making = new Map<string, Promise<Template>>();
  /** What was said of templates, until their files change */
  readonly #described = new WeakMap<Template, Promise<TemplateDescription>>();
  /** Called when a template is no longer what it was: removed, or with other images */
  onReplaced: (name: string) => void = () => undefined;
  /** Called when a template can be started from memory that could not before */
  onReady: (name: string) => void = () => undefined;

  constructor(parts: TemplatesParts) {
    this.#parts = parts;
    this.#jobs = new BackgroundJobs(parts.log);
    this.#upkeep = new TemplateUpkeep({
      ...parts,
      jobs: this.#jobs,
      onTidied: (template) => this.#described.delete(template),
      onReplaced: (name) => this.onReplaced(name),
    });
  }

  async recover(): Promise<void> {
    await this.#parts.store.recover();
    for (const template of this.#parts.store.list()) {
      if (template.record.kind === "step") await this.#parts.steps.learn(template);
      else this.#upkeep.tidy(template);
    }
  }

  async bases(): Promise<BaseTemplate[]> {
    return this.#parts.context.images.bases();
  }

  /** Templates that were made of sandboxes, by name. */
  snapshots(): Template[] {
    return this.#parts.store.list();
  }

  /** Throws `snapshot_not_found`. */
  snapshot(name: string): Template {
    const template = this.#parts.store.get(name);
    if (template === undefined) throw new PlatformError("snapshot_not_found", `there is no snapshot '${name.slice(0, 64)}'`);
    return template;
  }

  /** Rejects with `template_not_found`. */
  async resolve(name: string): Promise<ResolvedTemplate> {
    const base = (await this.#parts.context.images.base(name)) ?? (await this.#parts.imported(name));
    if (base !== undefined) return { kind: "base", name, diskSizeMib: base.diskSizeMib, sizes: null, defaults: noTemplateDefaults, base };
    const template = this.#parts.store.get(name);
    if (template !== undefined) {
      const { diskSizeMib, sizes, defaults } = template.record;
      return { kind: "snapshot", name, diskSizeMib, sizes, defaults, template };
    }
    const bases = (await this.#parts.context.images.bases()).map((each) => each.name);
    const made = this.#parts.store.list().map((each) => each.record.name);
    const known = [...bases, ...made.filter((each) => !isHostTemplateName(each))].sort();
    throw new PlatformError(
      "template_not_found",
      `there is no template '${name}'; this host has ${known.slice(0, 20).join(", ") || "none"}`,
    );
  }

  /** What a sandbox of this template gets. Rejects with `template_size_fixed` when it asks for something else than its memory has. */
  sizesFor(template: ResolvedTemplate, asked: Sizes): Sizes {
    const { sizes } = template;
    if (sizes === null) return { vcpus: asked.vcpus || vcpusDefault, memoryMib: asked.memoryMib || memoryMibDefault };
    const isOther = (asked.vcpus !== 0 && asked.vcpus !== sizes.vcpus) || (asked.memoryMib !== 0 && asked.memoryMib !== sizes.memoryMib);
    if (!isOther) return sizes;
    throw new PlatformError(
      "template_size_fixed",
      `template '${template.name}' was saved with its memory, so its sandboxes have vcpus ${sizes.vcpus} and memory_mb ${sizes.memoryMib}; ` +
        "leave both out, or make the snapshot with memory=false",
    );
  }

  /**
   * Fills the empty image folder of a new sandbox. Where the template has no memory that fits this host the sandbox boots, and memory for the
   * next one is made in the background.
   */
  async begin(
    template: ResolvedTemplate,
    sizes: Sizes,
    images: ImageFolder,
    sandboxId: string | null,
    diskSizeMib: number,
  ): Promise<Beginning> {
    if (template.kind === "snapshot") {
      const { record } = template.template;
      return this.#parts.steps.use(record.name, () => this.#beginSnapshot(template.template, sizes, images, sandboxId));
    }
    const { context, cache } = this.#parts;
    const { base } = template;
    const disk = { base: base.path, baseDigest: base.digest, sizeMib: diskSizeMib };
    const isUsual = diskSizeMib === base.diskSizeMib; // the guest in a memory image knows how large its disk is
    if (isUsual && this.#parts.buildsImages) {
      const inputs = await this.#inputs(base, sizes);
      const key = cache.keyOf(inputs);
      const generation = await this.#link(await cache.find(key), images, sandboxId, () => cache.forget(key));
      if (generation !== undefined) return { source: { kind: "restore", generation }, origin: { disk }, guestToken: null };
      void this.ensureBase(base.name, sizes);
    }
    const source = await bootSource(context, sizes, { ...disk, layers: [] });
    return { source, origin: { disk }, guestToken: null };
  }

  /** Makes the memory image of a base template in the background, unless it is there. Resolves when it is, or could not be made. */
  async ensureBase(name: string, sizes: Sizes): Promise<void> {
    if (!this.#parts.buildsImages) return;
    const base = await this.#parts.context.images.base(name);
    if (base === undefined) return;
    const key = this.#parts.cache.keyOf(await this.#inputs(base, sizes));
    if ((await this.#parts.cache.find(key)) !== undefined) return;
    await this.#jobs.run(key, async (signal) => {
      const { context, cache, buildsFolder, log } = this.#parts;
      const startedMs = performance.now();
      const disk = { base: base.path, baseDigest: base.digest, layers: [], sizeMib: base.diskSizeMib };
      await cache.make(key, async (images) => {
        await buildMemoryImage({ images, disk, vcpus: sizes.vcpus, memoryMib: sizes.memoryMib, signal }, context, buildsFolder);
      });
      log.info({ template: name, key, ms: Math.round(performance.now() - startedMs) }, "made the memory image of a template");
      this.onReady(name);
    });
  }

  /** Images of the cache that the templates depend on. */
  async neededImages(): Promise<HeldImage[]> {
    const generations = await Promise.all(this.#parts.store.list().map(async ({ images }) => images.list()));
    return generations.flat().flatMap(neededBy);
  }

  /** Whether a sandbox of this template would be restored. */
  async hasMemory(name: string, sizes: Sizes): Promise<boolean> {
    const template = await this.resolve(name);
    if (template.kind === "snapshot") {
      const generation = template.sizes === null ? null : await template.template.images.current();
      return generation !== null && (await whyStale(generation.manifest, this.#parts.context)) === undefined;
    }
    return (await this.#parts.cache.find(this.#parts.cache.keyOf(await this.#inputs(template.base, sizes)))) !== undefined;
  }

  /**
   * Makes a template of a generation of a sandbox, in the place of one of the same name if `replace` says so. Rejects with `snapshot_exists`. A step
   * that is there, or is being made by another build, is as good as this one: its name says what is in it.
   */
  async create(record: TemplateRecord, from: ImageFolder, generation: Generation, options: Replace): Promise<Template> {
    if (record.kind !== "step") return this.#create(record, from, generation, options);
    for (let making = this.#making.get(record.name); making !== undefined; making = this.#making.get(record.name)) {
      await making.catch(() => undefined); // its maker's matter
    }
    const present = this.#parts.store.get(record.name);
    if (present !== undefined && !options.replace) return present;
    const making = this.#create(record, from, generation, options).finally(() => this.#making.delete(record.name));
    this.#making.set(record.name, making);
    return making;
  }

  /** The template of one build as that of another: its files are shared. Rejects with `snapshot_not_found`, `image_damaged`. */
  async copy(from: string, name: string): Promise<Template> {
    const { record, images } = this.snapshot(from);
    if (record.kind !== "build") throw new PlatformError("request_invalid", `'${from}' is no template of a build`);
    await this.refuseName({ name, kind: record.kind }, { replace: true });
    const { store, log } = this.#parts;
    const present = store.get(name);
    if (present !== undefined) return present;
    const fill = async (into: ImageFolder) => {
      const generation = await this.#link(images, into, null);
      if (generation === undefined) throw new PlatformError("image_damaged", `template '${from}' is damaged or was removed just now`);
      return generation;
    };
    const template = await store.create({ ...record, name, timeCreatedMs: Date.now() }, fill);
    log.info({ template: name, from }, "took over the template of an earlier build");
    this.#upkeep.tidy(template);
    this.onReady(name);
    return template;
  }

  /** A step of a build that is kept, now counted as used. */
  async step(name: string): Promise<Template | undefined> {
    return this.#parts.steps.use(name, async () => this.#parts.store.get(name));
  }

  async #create(record: TemplateRecord, from: ImageFolder, generation: Generation, options: Replace): Promise<Template> {
    await this.refuseName(record, options);
    const { store, steps } = this.#parts;
    const fill = (images: ImageFolder) => from.linkInto(images, generation.number, { kind: "template", sandboxId: null });
    const present = store.get(record.name);
    const template = present === undefined ? await store.create(record, fill) : await store.replace(present, record, fill);
    if (template === undefined) throw existsError(record.name); // somebody else was quicker
    if (present !== undefined) this.onReplaced(record.name);
    const message = `template '${record.name}' was made of ${record.sourceSandboxId}`;
    // Of what has a name of the hosts' the control plane tells, by the name that users know
    if (isHostTemplateName(record.name)) this.#parts.log.info({ template: record.name }, message);
    else this.#parts.context.events.emit("template.created", { template: record.name, message });
    if (record.kind === "step") await steps.add(template);
    else this.#upkeep.tidy(template);
    this.onReady(record.name);
    return template;
  }

  /** Rejects with `snapshot_exists` when a template has the name that is not to be replaced, `request_invalid` when it is no name for this kind. */
  async refuseName({ name, kind }: Pick<TemplateRecord, "name" | "kind">, { replace }: Replace): Promise<void> {
    if (!isNameFor(kind, name)) {
      throw new PlatformError(
        "request_invalid",
        `'${name}' cannot be the name of a ${kind}: names such as image-…, step-… and build-… are a host's own`,
      );
    }
    const isTaken = !replace && this.#parts.store.get(name) !== undefined;
    if (isTaken || (await this.#parts.context.images.base(name)) !== undefined) throw existsError(name);
  }

  /** Removes a template that was made of a sandbox. Rejects with `snapshot_not_found`. */
  async remove(name: string): Promise<void> {
    if (!(await this.#parts.store.remove(name))) {
      const isBase = (await this.#parts.context.images.base(name)) !== undefined;
      throw isBase
        ? new PlatformError(
            "snapshot_not_found",
            `'${name}' is a base template: it belongs to the host's images and cannot be deleted here`,
          )
        : new PlatformError("snapshot_not_found", `there is no snapshot '${name}'`);
    }
    this.#parts.steps.forget(name);
    const message = `template '${name}' was deleted`;
    if (isHostTemplateName(name)) this.#parts.log.info({ template: name }, message);
    else this.#parts.context.events.emit("template.deleted", { template: name, message });
    this.onReplaced(name);
  }

  /** Digest and size of a template, cheap to ask for again and again. Rejects with `image_damaged`. */
  async describe(template: Template): Promise<TemplateDescription> {
    const present = this.#described.get(template);
    if (present !== undefined) return present;
    const description = describe(template);
    this.#described.set(template, description);
    description.catch(() => this.#described.delete(template));
    return description;
  }

  async close(): Promise<void> {
    this.#parts.steps.close();
    await this.#jobs.close();
  }

  async #beginSnapshot(template: Template, sizes: Sizes, images: ImageFolder, sandboxId: string | null): Promise<Beginning> {
    const { context, store } = this.#parts;
    const { record } = template;
    await this.#upkeep.mergeWhenUrgent(template);
    // Another start may have found it damaged, too
    const onDamaged = record.kind === "step" ? async () => this.remove(record.name).catch(() => undefined) : undefined;
    const generation = await this.#link(template.images, images, sandboxId, onDamaged).catch((error: unknown) => {
      if (store.get(record.name) === template) throw error;
    });
    if (generation === undefined) {
      const present = store.get(record.name);
      if (present === undefined && record.kind === "step") {
        throw new PlatformError("template_not_found", `'${record.name}' is no longer kept by this host: begin from an earlier step`);
      }
      if (present === template) {
        throw new PlatformError("image_damaged", `template '${record.name}' is damaged; delete it and make the snapshot again`);
      }
      if (present === undefined || present.record.sizes?.memoryMib !== record.sizes?.memoryMib) {
        throw new PlatformError("sandbox_start_failed", `template '${record.name}' was replaced or deleted just now; try again`);
      }
      return this.#beginSnapshot(present, sizes, images, sandboxId);
    }
    const { layers, ...disk } = savedDisk(generation);
    const boot = async () => bootSource(context, sizes, { ...disk, layers });
    if (generation.manifest.memory === null) return { source: await boot(), origin: { disk }, guestToken: null };
    const mismatch = await whyStale(generation.manifest, context);
    if (mismatch === undefined) return { source: { kind: "restore", generation }, origin: { disk }, guestToken: record.guestToken };
    const notice = this.#upkeep.reimage(template, mismatch);
    return { source: await boot(), origin: { disk, ...(notice === undefined ? {} : { notice }) }, guestToken: null };
  }

  /** Links the present generation of `from`, verified; undefined when there is none or it is damaged. */
  async #link(
    from: ImageFolder | undefined,
    images: ImageFolder,
    sandboxId: string | null,
    onDamaged?: () => Promise<void>,
  ): Promise<Generation | undefined> {
    // A rebase may replace the files between the look and the link: then the second look finds the new ones
    if (from === undefined) return undefined;
    for (let triesLeft = 4; ; triesLeft -= 1) {
      try {
        const generation = await from.current();
        if (generation === null) throw new MissingImage();
        await from.verify(generation, { deep: false });
        return await from.linkInto(images, generation.number, { kind: "template", sandboxId });
      } catch (error) {
        const isMissing = error instanceof MissingImage || (error as NodeJS.ErrnoException).code === "ENOENT";
        if (isMissing && triesLeft > 1) {
          await sleep(linkPauseMs);
          continue;
        }
        if (error instanceof MissingImage) return undefined;
        if (!(error instanceof PlatformError) || error.code !== "image_damaged") throw error;
        this.#parts.log.error({ err: error, folder: from.folder }, "a template's memory image is damaged");
        await onDamaged?.();
        return undefined;
      }
    }
  }

  async #inputs(template: BaseTemplate, sizes: Sizes) {
    const { context } = this.#parts;
    return {
      template,
      images: await context.images.boot(),
      fingerprint: await context.driver.fingerprint(context.accelerator),
      dnsServers: context.network.guestDnsServers,
      vcpus: sizes.vcpus,
      memoryMib: sizes.memoryMib,
    };
  }
}

/** What is told of a template that was made of a sandbox. */
export interface TemplateDescription {
  /** Of the manifest that it consists of */
  readonly digest: string;
  /** What its files occupy, in `bytes` */
  readonly sizeBytes: number;
}

async function describe({ images }: Template): Promise<TemplateDescription> {
  const generation = await images.current();
  return generation === null
    ? { digest: "", sizeBytes: 0 }
    : { digest: generation.manifest.checksum, sizeBytes: await occupiedBytes(generation) };
}

function isNameFor(kind: TemplateKind, name: string): boolean {
  return hostTemplateNames[kind].test(name) || (kind === "snapshot" && !isHostTemplateName(name));
}

/** Images of the cache that a generation depends on. */
export function neededBy(generation: Generation | DamagedGeneration): HeldImage[] {
  return "manifest" in generation ? [generation.manifest.disk.base, generation.manifest.vm.agentDisk] : [];
}

/** No generation where one should be: it is being replaced, or there is none. */
class MissingImage extends Error {}
/** Wait before another look for files that a replacement took away, in `ms` */
const linkPauseMs = 20;
