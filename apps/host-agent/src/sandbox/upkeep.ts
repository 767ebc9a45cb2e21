import { withDeadline, type Logger } from "@roost/kit";

import type { FilesInUse, ImageFolder } from "../memory/image-folder.ts";
import { needsRebase, rebase } from "../memory/rebase.ts";
import type { Vm } from "../vmm/driver.ts";
import type { ImagePolicy, LifeStep } from "./context.ts";
import type { Disks } from "./disks.ts";
import { mergeGeneration, urgentLayers, urgentMergeTimeoutMs } from "./merge-generation.ts";

export interface UpkeepParts {
  readonly images: ImageFolder;
  readonly policy: ImagePolicy;
  readonly disks: Disks;
  /** The sandbox's layers and the base file of its VM */
  readonly inUse: () => FilesInUse;
  /** Its layers became others with the same content: written down durably */
  readonly keepLayers: (layers: readonly string[]) => Promise<void>;
  readonly onStep: (step: LifeStep) => Promise<void>;
  readonly log: Logger;
}

/**
 * What keeps an image folder small, in the background: old generations and files nobody names are removed, a paused sandbox's grown diff becomes
 * a base file of its own, long chains of layers are merged. Each is safe to abort at any instant and to begin anew; whoever needs the
 * folder calls `end` first.
 */
export class Upkeep {
  readonly #parts: UpkeepParts;
  #work: { readonly abort: AbortController; readonly done: Promise<void> } | undefined;

  constructor(parts: UpkeepParts) {
    this.#parts = parts;
  }

  /** Begins, unless it is under way. With a VM, its layers are merged by it; without, the sandbox is paused. */
  begin(vm?: Vm): void {
    if (this.#work !== undefined) return;
    const abort = new AbortController();
    const done = this.#tidy(vm, abort.signal).catch((error: unknown) => {
      if (!abort.signal.aborted)
        this.#parts.log.warn({ err: error }, "upkeep of a sandbox's images failed; it is tried again after its next change");
    });
    const work = { abort, done };
    this.#work = work;
    void done.then(() => {
      if (this.#work === work) this.#work = undefined;
    });
  }

  /**
   * Resolves when nothing is done in the background any more. `forCapture`: a sandbox that is captured all the time would never get its layers merged, so when there
   * are far too many of them the merge is waited for.
   */
  async end(options: { readonly forCapture?: boolean } = {}): Promise<void> {
    const work = this.#work;
    if (work === undefined) return;
    const isUrgent = options.forCapture === true && this.#parts.inUse().layers.length > urgentLayers(this.#parts.policy);
    if (isUrgent) await withDeadline("the merging of disk layers", urgentMergeTimeoutMs, work.done).catch(() => undefined); // then it is aborted after all
    work.abort.abort(new Error("the sandbox is needed"));
    await work.done;
    this.#work = undefined;
  }

  async #tidy(vm: Vm | undefined, signal: AbortSignal): Promise<void> {
    const { policy, inUse } = this.#parts;
    await this.#prune();
    if (inUse().layers.length > policy.layersMax) {
      await (vm === undefined ? this.#mergePaused(signal) : this.#flattenRunning(vm, signal));
      await this.#prune();
    }
    if (vm === undefined) await this.#rebase(signal);
  }

  async #prune(): Promise<void> {
    const { images, policy, inUse } = this.#parts;
    await images.prune({ keepCheckpoints: policy.checkpointsKept, inUse: inUse() });
  }

  /** The VMM copies what the frozen layers hold into the top one; the guest runs meanwhile. */
  async #flattenRunning(vm: Vm, signal: AbortSignal): Promise<void> {
    await vm.flattenLayers(signal);
    await this.#parts.keepLayers(await vm.layers());
  }

  /** All layers of the current generation become one, in a new revision of it. */
  async #mergePaused(signal: AbortSignal): Promise<void> {
    const { images, disks, inUse, keepLayers } = this.#parts;
    const generation = await images.current();
    if (generation === null) return;
    const { manifest } = generation;
    const merged = await mergeGeneration(images, generation, {
      disks,
      signal,
      onMerged: () => this.#parts.onStep("upkeep:layers-merged"),
    });
    await this.#parts.onStep("upkeep:merge-committed");
    // After a lost VM there are newer layers than the generation's: what its disk held at the end
    const newer = inUse().layers.filter((layer) => !manifest.disk.layers.some(({ file }) => file === layer));
    await keepLayers([merged, ...newer]);
  }

  async #rebase(signal: AbortSignal): Promise<void> {
    const { images, policy } = this.#parts;
    const generation = await images.current();
    if (generation === null || !needsRebase(generation, { diffBytes: policy.rebaseBytes })) return;
    signal.throwIfAborted();
    await rebase(images, generation.number, { signal });
  }
}
