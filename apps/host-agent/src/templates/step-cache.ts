import { stat, utimes } from "node:fs/promises";
import { join } from "node:path";

import { minute, type Logger } from "@roost/kit";

import { recordFile, type Template, type TemplateStore } from "./template-store.ts";

/** Steps kept at most: listing a host's templates must stay quick. */
const stepCountMax = 1_000;
/** A step that was made or begun from so short a time ago stays in any case, in `ms`: a build is about to go on from it. */
const freshMsDefault = minute;

export interface StepCacheParts {
  readonly store: TemplateStore;
  /** What the layers of all steps may take together, in `bytes` */
  readonly bytesMax: number;
  readonly countMax?: number;
  readonly freshMs?: number;
  readonly onRemoved: (name: string) => void;
  readonly log: Logger;
}

interface Step {
  /** Sizes of its layers in `bytes`, by name: a name is never used twice, so steps that share a layer are seen to */
  readonly layers: ReadonlyMap<string, number>;
  timeUsedMs: number;
  /** Starts that read it right now */
  readers: number;
}

/**
 * Which steps of builds are kept: templates of kind `step`, each a frozen disk, as many as there is room for. Those that were used last stay.
 *
 * Who makes a step or begins from it uses those below it, too (whose layers it has all): were they the first to go, nothing would be freed, since it has links
 * to their layers, and a build that changes a step in the middle would find nothing to begin from. The instant of the last use is the modification time of
 * the step's record, so it outlives the host agent.
 */
export class StepCache {
  readonly #parts: StepCacheParts;
  readonly #steps = new Map<string, Step>();
  #evicting: Promise<void> = Promise.resolve();
  #timer: NodeJS.Timeout | undefined;

  constructor(parts: StepCacheParts) {
    this.#parts = parts;
  }

  /** Takes a step into account that was found, or has other files. One that cannot be read is of no use: it goes. */
  async learn({ record: { name }, images }: Template): Promise<void> {
    try {
      const generation = await images.current();
      if (generation === null) throw new Error("it has no generation");
      const layers = new Map(generation.manifest.disk.layers.map((layer) => [layer.file, layer.sizeBytes] as const));
      const { mtimeMs } = await stat(join(images.folder, recordFile));
      this.#steps.set(name, { layers, timeUsedMs: mtimeMs, readers: this.#steps.get(name)?.readers ?? 0 });
    } catch (error) {
      this.#parts.log.warn({ err: error, template: name }, "a step of a build is damaged; it is removed from the cache");
      await this.#remove(name);
    }
    this.#evict();
  }

  /** Takes a step into account that was made just now, of those below it. */
  async add(template: Template): Promise<void> {
    await this.learn(template);
    await this.use(template.record.name, async () => undefined);
  }

  forget(name: string): void {
    this.#steps.delete(name);
  }

  /** Does what begins from a step, or would: it stays meanwhile, and counts as used. */
  async use<T>(name: string, work: () => Promise<T>): Promise<T> {
    const step = this.#steps.get(name);
    if (step === undefined) return work();
    step.readers += 1;
    try {
      await this.#touch(step);
      return await work();
    } finally {
      step.readers -= 1;
    }
  }

  close(): void {
    clearTimeout(this.#timer);
  }

  async #touch(used: Step): Promise<void> {
    const now = new Date();
    for (const [name, step] of this.#steps) {
      if (![...step.layers.keys()].every((layer) => used.layers.has(layer))) continue;
      step.timeUsedMs = now.getTime();
      const folder = this.#parts.store.get(name)?.images.folder;
      if (folder !== undefined) await utimes(join(folder, recordFile), now, now).catch(() => undefined); // removed just now
    }
  }

  #evict(): void {
    this.#evicting = this.#evicting
      .then(() => this.#removeOldest())
      .catch((error: unknown) => this.#parts.log.warn({ err: error }, "an old step of a build could not be removed"));
  }

  async #removeOldest(): Promise<void> {
    const { bytesMax, countMax = stepCountMax, freshMs = freshMsDefault } = this.#parts;
    const freshSinceMs = Date.now() - freshMs;
    while (this.#steps.size > countMax || this.#bytes() > bytesMax) {
      const oldest = this.#oldest();
      if (oldest === undefined || oldest.step.timeUsedMs > freshSinceMs) return this.#evictLater(freshMs);
      await this.#remove(oldest.name);
    }
  }

  /** Of those used at the same time the one with the most layers: it is the one that nothing else is made of. */
  #oldest(): { readonly name: string; readonly step: Step } | undefined {
    const [first] = [...this.#steps]
      .map(([name, step]) => ({ name, step }))
      .filter(({ step }) => step.readers === 0)
      .sort(({ step: one }, { step: other }) => one.timeUsedMs - other.timeUsedMs || other.layers.size - one.layers.size);
    return first;
  }

  /** What the layers take that any step has. */
  #bytes(): number {
    const layers = new Map([...this.#steps.values()].flatMap((step) => [...step.layers]));
    return [...layers.values()].reduce((sum, bytes) => sum + bytes, 0);
  }

  async #remove(name: string): Promise<void> {
    this.#steps.delete(name);
    if (await this.#parts.store.remove(name)) this.#parts.onRemoved(name);
  }

  #evictLater(afterMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#evict(), afterMs);
    this.#timer.unref();
  }
}
