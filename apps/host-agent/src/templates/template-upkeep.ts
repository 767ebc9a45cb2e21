import { PlatformError } from "@roost/contract";
import { withDeadline } from "@roost/kit";

import type { Generation } from "../memory/image-folder.ts";
import { needsRebase, rebase } from "../memory/rebase.ts";
import type { SandboxContext } from "../sandbox/context.ts";
import { mergeGeneration, urgentLayers, urgentMergeTimeoutMs } from "../sandbox/merge-generation.ts";
import type { Mismatch } from "../sandbox/restorable.ts";
import { savedDisk } from "../sandbox/start-vm.ts";
import type { BackgroundJobs } from "./background-jobs.ts";
import { buildMemoryImage } from "./image-builder.ts";
import type { StepCache } from "./step-cache.ts";
import type { Template, TemplateStore } from "./template-store.ts";

/** Diff of a template in `bytes` above which it gets a base file of its own: each sandbox is filled with it, and none shares it. */
const templateDiffBytesMax = 1024 * 1024;

export interface TemplateUpkeepParts {
  readonly context: SandboxContext;
  readonly store: TemplateStore;
  readonly steps: StepCache;
  readonly jobs: BackgroundJobs;
  /** Folder for VMs that only make images */
  readonly buildsFolder: string;
  /** Whether memory is made anew where it does not fit, and kept small */
  readonly buildsImages: boolean;
  /** Its files became others, with the same content */
  readonly onTidied: (template: Template) => void;
  /** Another template took its place */
  readonly onReplaced: (name: string) => void;
}

/** Keeps templates that were made of sandboxes small and up to date, in the background. Each job is safe to abort at any instant and to begin anew. */
export class TemplateUpkeep {
  readonly #parts: TemplateUpkeepParts;
  /** Templates whose memory does not fit and cannot be made anew, which was told */
  readonly #stale = new WeakSet<Template>();

  constructor(parts: TemplateUpkeepParts) {
    this.#parts = parts;
  }

  /** The pages that the template's sandbox had changed go into a base file, so that its own sandboxes need not be filled with them. */
  tidy(template: Template): void {
    if (this.#parts.buildsImages) void this.#tidyNow(template);
  }

  /**
   * Makes a disk of too many layers one of a single layer; resolves when it is done, has failed, or takes too long. Before a start, not when there is time: each
   * sandbox adds a layer, and so does each template that is made of one, but most are never begun from often enough to be worth the copying.
   */
  async mergeWhenUrgent(template: Template): Promise<void> {
    const current = await template.images.current().catch(() => null); // whoever links it says what is wrong
    if (current === null || !this.#isLong(current)) return;
    await withDeadline("the merging of a template's layers", urgentMergeTimeoutMs, this.#tidyNow(template)).catch(() => undefined);
  }

  /**
   * The template boots from its disk until its memory was made anew; undefined. In the memory of one with a start command that command has to run, and
   * only a build starts it: such a one goes on booting, and what its sandboxes should be told of it is returned.
   */
  reimage(template: Template, mismatch: Mismatch): string | undefined {
    const { context, store, jobs, buildsFolder, buildsImages } = this.#parts;
    const { record } = template;
    const why = `its ${mismatch.what} is '${mismatch.image}' and this host has '${mismatch.host}'`;
    if (record.defaults.startCommand !== "") return this.#leaveStale(template, why);
    if (!buildsImages || record.sizes === null || jobs.has(jobOf(template))) return undefined;
    const sizes = record.sizes;
    context.events.emit("template.reimaged", {
      template: record.name,
      message: `the memory image of template '${record.name}' does not fit this host (${why}): its sandboxes boot from its disk while a new one is made`,
    });
    void jobs.run(jobOf(template), async (signal) => {
      const replaced = await store.replace(template, { ...record, guestToken: null }, async (images) => {
        const old = await template.images.linkInto(images, (await currentOf(template)).number, { kind: "template", sandboxId: null });
        return buildMemoryImage({ images, disk: savedDisk(old), ...sizes, signal }, context, buildsFolder);
      });
      if (replaced !== undefined) this.#parts.onReplaced(record.name);
    });
    return undefined;
  }

  #leaveStale(template: Template, why: string): string {
    if (!this.#stale.has(template)) {
      this.#stale.add(template);
      const { name } = template.record;
      const message = `the memory image of template '${name}' does not fit this host (${why}): its sandboxes boot, and run its start command; make it again`;
      this.#parts.context.events.emit("template.stale", { template: name, message });
    }
    return `the memory image of its template does not fit this host (${why}), so it booted; make the template again to start from memory`;
  }

  /** Resolves when it is tidy, or could not be made so. */
  async #tidyNow(template: Template): Promise<void> {
    const { context, jobs, buildsImages, steps, store } = this.#parts;
    const { images, record } = template;
    await jobs.run(jobOf(template), async (signal) => {
      const generation = await currentOf(template);
      if (this.#isLong(generation)) await mergeGeneration(images, generation, { disks: context.disks, signal });
      if (buildsImages && needsRebase(generation, { diffBytes: templateDiffBytesMax })) await rebase(images, generation.number, { signal });
      await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } });
      this.#parts.onTidied(template);
      if (record.kind === "step" && store.get(record.name) === template) await steps.learn(template);
    });
  }

  #isLong({ manifest }: Generation): boolean {
    return manifest.disk.layers.length > urgentLayers(this.#parts.context.policy);
  }
}

async function currentOf(template: Template): Promise<Generation> {
  const generation = await template.images.current();
  if (generation === null) throw new PlatformError("image_damaged", `template '${template.record.name}' is damaged`);
  return generation;
}

/** What is done to one template in the background; of its successor it is another job. */
function jobOf({ images }: Template): string {
  return `template ${images.folder}`;
}
