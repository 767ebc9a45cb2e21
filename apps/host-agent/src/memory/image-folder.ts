import { chmod, chown, mkdir } from "node:fs/promises";
import { basename, dirname, join } from "node:path";

import { assert, syncFolder, type Logger } from "@roost/kit";

import { FileDigests } from "./checksum.ts";
import type { OnStep } from "./durable-steps.ts";
import { syncFile } from "./file-io.ts";
import {
  findGeneration,
  isIntact,
  listGenerations,
  listRevisions,
  readCurrent,
  type DamagedGeneration,
  type Generation,
} from "./generations.ts";
import { imageDamaged, onHostDisk } from "./image-damaged.ts";
import { baseSuffix, ImagePaths, randomName } from "./image-paths.ts";
import { isSameFile, linkFile, linkGeneration, publishRevision, syncImageFolders, type RevisionChanges } from "./link-generation.ts";
import type { GenerationKind } from "./manifest.ts";
import { prune, type FilesInUse, type PruneReport } from "./prune.ts";
import { readPointer, writePointer } from "./pointer.ts";
import { describeLayers, makeStaging, removeGenerationFolder, type ImageContext } from "./publish.ts";
import { recover, type RecoverReport } from "./recover.ts";
import { StagedGeneration } from "./staged-generation.ts";
import { findDamage, type VerifyOptions } from "./verify.ts";

export type { DurableStep } from "./durable-steps.ts";
export type { DamagedGeneration, Generation } from "./generations.ts";
export type { GenerationKind } from "./manifest.ts";
export type { FilesInUse } from "./prune.ts";
export type { RecoverReport } from "./recover.ts";
export type { CommitParts, StagedGeneration } from "./staged-generation.ts";

export interface ImageFolderOptions {
  /** Digests that this process knows; share one among all image folders */
  readonly digests?: FileDigests;
  /** Called and awaited between durable steps; what it throws makes the operation fail. For tests. */
  readonly onStep?: OnStep;
  readonly log: Logger;
}

/**
 * An image folder: disk layers, base files and generations of one sandbox, template or cached memory image, and which generation is current.
 *
 * Everything that a generation names is immutable. A new state is new files, made durable under other names, and then one rename (`publish.ts`). Other
 * image folders share files by hard links, so no folder depends on another and the file system counts who still needs what.
 *
 * One instance per folder and process: work on a folder is done one after the other. Nothing here is safe against a second process that writes.
 */
export class ImageFolder {
  readonly paths: ImagePaths;
  readonly #context: ImageContext;
  #tail: Promise<unknown> = Promise.resolve();
  /** Work under way whose files no generation names yet */
  #unfinished = 0;
  #handedOut = 0;

  constructor(folder: string, options: ImageFolderOptions) {
    this.paths = new ImagePaths(folder);
    this.#context = {
      paths: this.paths,
      digests: options.digests ?? new FileDigests(),
      onStep: options.onStep ?? (() => undefined),
      log: options.log,
    };
  }

  get folder(): string {
    return this.paths.folder;
  }

  /** Absolute folder of the layers. */
  get diskFolder(): string {
    return this.paths.disk;
  }

  layerPath(file: string): string {
    return this.paths.layer(file);
  }

  basePath(file: string): string {
    return this.paths.base(file);
  }

  /** Absolute path of a generation's own file, such as `manifest.memory.diff.file`. */
  filePath(generation: Generation, file: string): string {
    return join(generation.folder, file);
  }

  /** Makes the folder and its parts where they are missing, durably. */
  async create(): Promise<void> {
    return onHostDisk(async () => {
      await mkdir(this.paths.folder, { recursive: true, mode: 0o711 });
      for (const part of [this.paths.disk, this.paths.memory]) await mkdir(part, { recursive: true, mode: 0o700 });
      await mkdir(this.paths.generations, { recursive: true, mode: 0o700 });
      await syncImageFolders(this.paths);
      await syncFolder(dirname(this.paths.folder));
    });
  }

  /** Lets the VMM that runs with this gid pass into `disk/`, and nobody else. */
  async openTo(gid: number): Promise<void> {
    await chown(this.paths.disk, 0, gid);
    await chmod(this.paths.disk, 0o710);
  }

  /**
   * Links a base file that is elsewhere (a file of zeros, another image folder's) into `memory/`, durably; its name there, another one where that is
   * taken by another file. Idempotent.
   */
  async linkBase(path: string): Promise<string> {
    return onHostDisk(async () =>
      this.#exclusive(async () => {
        await syncFile(path);
        for (let name = basename(path); ; name = `${basename(path, baseSuffix)}-${randomName().slice(0, 4)}${baseSuffix}`) {
          const target = this.paths.base(name);
          const isTaken = await linkFile(path, target).then(
            () => false,
            (error: NodeJS.ErrnoException) => {
              if (error.code === "EEXIST") return true;
              throw error;
            },
          );
          if (isTaken) continue;
          assert(await isSameFile(path, target), "a link is the file it was made of");
          await syncFolder(this.paths.memory);
          return name;
        }
      }),
    );
  }

  /** The current generation; null when none was ever committed. `image_damaged` when `current` or the manifest it names is. */
  async current(): Promise<Generation | null> {
    return this.#exclusive(async () => {
      const current = await readCurrent(this.paths);
      if (current !== null) this.#learn(current);
      return current;
    });
  }

  /** `generation_not_found`, `image_damaged` */
  async get(number: number): Promise<Generation> {
    return this.#exclusive(async () => this.#get(number));
  }

  /** All generations, oldest first. */
  async list(): Promise<(Generation | DamagedGeneration)[]> {
    return this.#exclusive(async () => listGenerations(this.paths, await readPointer(this.paths)));
  }

  /** Begins a new generation. The caller commits or discards it. */
  async stage(kind: GenerationKind): Promise<StagedGeneration> {
    return onHostDisk(async () =>
      this.#exclusive(async () => {
        const state = await readPointer(this.paths);
        const generations = await listGenerations(this.paths, state);
        const committed = generations.filter(isIntact);
        for (const generation of committed) this.#learn(generation);
        const newest = state.kind === "present" ? state.pointer.newest : 0;
        const number = Math.max(newest, generations.at(-1)?.number ?? 0, this.#handedOut) + 1;
        const folder = await makeStaging(this.#context);
        this.#handedOut = number;
        this.#unfinished += 1;
        return new StagedGeneration({
          context: this.#context,
          folder,
          number,
          kind,
          committedLayers: new Set(committed.flatMap(({ manifest }) => manifest.disk.layers.map((layer) => layer.file))),
          exclusive: async (work) => this.#exclusive(work),
          onEnd: () => (this.#unfinished -= 1),
        });
      }),
    );
  }

  /** Makes a kept generation the current one, durably: a rollback. `generation_not_found`, `image_damaged`. */
  async setCurrent(number: number): Promise<Generation> {
    return onHostDisk(async () =>
      this.#exclusive(async () => {
        const generation = await this.#get(number);
        const state = await readPointer(this.paths);
        const newest = state.kind === "present" ? state.pointer.newest : ((await listRevisions(this.paths)).at(-1)?.number ?? number);
        const { revision, manifestDigest: manifest } = generation;
        await writePointer(this.paths, { generation: number, revision, newest, manifest }, this.#context.onStep);
        return generation;
      }),
    );
  }

  /** Removes a generation that is not current, whole or damaged. Idempotent. Its layers and base file go with the next `prune`. */
  async remove(number: number): Promise<void> {
    await this.#exclusive(async () => {
      const state = await readPointer(this.paths);
      assert(state.kind !== "present" || state.pointer.generation !== number, "the current generation is not removed");
      const revisions = (await listRevisions(this.paths)).filter((name) => name.number === number);
      for (const { revision } of revisions) await removeGenerationFolder(this.#context, this.paths.generation(number, revision));
    });
  }

  /**
   * Commits the same generation with other files, that hold the same memory and disk, in place of its own (rebase, compaction of layers). The revision
   * before is removed. `layers`: names in `disk/`, all frozen. Rejects when it is no longer the one that counts.
   */
  async commitRevision(
    generation: Generation,
    changes: Pick<RevisionChanges, "memory"> & { readonly layers?: readonly string[] },
  ): Promise<Generation> {
    const { layers, ...others } = changes;
    return onHostDisk(async () =>
      this.whileUnfinished(async () => {
        const described = layers === undefined ? {} : { layers: await describeLayers(this.#context, layers) };
        return this.#exclusive(async () => {
          const { number, revision, manifestDigest } = await this.#get(generation.number);
          if (manifestDigest !== generation.manifestDigest) throw new Error(`generation ${number} is at revision ${revision} meanwhile`);
          const state = await readPointer(this.paths);
          const isCurrent = state.kind === "present" && state.pointer.generation === number;
          const highest = (await listRevisions(this.paths)).findLast((name) => name.number === number)?.revision ?? revision;
          return publishRevision(this.#context, generation, highest + 1, { ...others, ...described }, isCurrent);
        });
      }),
    );
  }

  /** Hard-links all files of a generation into `target`, which has none, and commits it there as generation 1. */
  async linkInto(
    target: ImageFolder,
    number: number,
    about: { readonly kind: GenerationKind; readonly sandboxId: string | null },
  ): Promise<Generation> {
    return onHostDisk(async () => {
      await target.create();
      return this.#exclusive(async () => {
        const generation = await this.#get(number);
        return target.#exclusive(async () => {
          assert((await listRevisions(target.paths)).length === 0, "a generation is linked into a folder that has none");
          return linkGeneration(this.paths, generation, target.#context, about);
        });
      });
    });
  }

  /** Brings the folder to its old or its new state after a crash and removes what is unfinished. Before anything else, at start. */
  async recover(): Promise<RecoverReport> {
    return onHostDisk(async () => this.#exclusive(async () => recover(this.#context)));
  }

  /** Removes generations that nobody can go back to, and files that neither a generation nor a VM uses. */
  async prune(options: { readonly keepCheckpoints: number; readonly inUse: FilesInUse }): Promise<PruneReport> {
    return onHostDisk(async () => this.#exclusive(async () => prune(this.#context, { ...options, removesFiles: this.#unfinished === 0 })));
  }

  /**
   * Checks that what a generation names is what was committed; `image_damaged` says what is not. Before a restore without `deep`; see `VerifyOptions`.
   */
  async verify(generation: Generation, options: VerifyOptions): Promise<void> {
    const damage = await findDamage(this.paths, generation, this.#context.digests, options);
    if (damage.length > 0) throw imageDamaged(damage.join("; "));
  }

  /** While `work` runs no file is taken for unused. For what makes files before it commits them. */
  async whileUnfinished<T>(work: (context: ImageContext) => Promise<T>): Promise<T> {
    this.#unfinished += 1;
    try {
      return await work(this.#context);
    } finally {
      this.#unfinished -= 1;
    }
  }

  async #get(number: number): Promise<Generation> {
    const generation = await findGeneration(this.paths, number);
    this.#learn(generation);
    return generation;
  }

  /** The digests of a generation's files need not be calculated again for the next one. */
  #learn({ manifest }: Generation): void {
    for (const layer of manifest.disk.layers) this.#context.digests.remember({ ...layer, dataMap: "" });
    if (manifest.memory !== null) this.#context.digests.remember(manifest.memory.base);
  }

  /** Runs `work` when everything that came before it is done. */
  async #exclusive<T>(work: () => Promise<T>): Promise<T> {
    const before = this.#tail;
    const mine = before.then(work, work);
    this.#tail = mine.catch(() => undefined); // whoever waits for it sees the error; those behind only wait for its end
    return mine;
  }
}
