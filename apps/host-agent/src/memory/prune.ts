import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { syncFolder } from "@roost/kit";

import { isIntact, listGenerations, type Generation } from "./generations.ts";
import { baseSuffix, layerSuffix } from "./image-paths.ts";
import { readPointer } from "./pointer.ts";
import { removeGenerationFolder, type ImageContext } from "./publish.ts";

/** Files that a running VM uses: never removed, also when no generation names them. */
export interface FilesInUse {
  /** Names in `disk/` */
  readonly layers: readonly string[];
  /** Names in `memory/`: a later capture is relative to the base file its VM began as, whatever a rebase made meanwhile */
  readonly bases: readonly string[];
}

export interface PruneOptions {
  /** Newest checkpoints that are kept beside the current generation */
  readonly keepCheckpoints: number;
  readonly inUse: FilesInUse;
  /** False: files that nothing names stay, because something under way may be about to name them */
  readonly removesFiles: boolean;
}

export interface PruneReport {
  /** Generations and files that were removed */
  readonly removed: readonly string[];
}

/**
 * Removes generations that nobody can go back to, then layers and base files that no generation names.
 *
 * The current generation stays, and of the others the newest checkpoints. What is damaged stays, too, for people to look at; and where a manifest
 * cannot be read nobody knows which files it names, so then all files stay. Where it is the current one's, everything does.
 */
export async function prune(context: ImageContext, options: PruneOptions): Promise<PruneReport> {
  const { paths, log } = context;
  const removed: string[] = [];
  const state = await readPointer(paths);
  const generations = await listGenerations(paths, state);
  if (state.kind !== "present") {
    if (state.kind === "damaged" || generations.length > 0)
      log.warn({ folder: paths.folder }, "nothing is tidied up where it is unknown what is current");
    else if (options.removesFiles) await removeUnnamed(context, [], options.inUse, removed);
    return { removed };
  }
  const current = generations.find((generation) => generation.number === state.pointer.generation);
  if (current === undefined || !isIntact(current)) {
    log.warn({ folder: paths.folder }, "nothing is tidied up where the current generation is damaged: somebody may want another one");
    return { removed };
  }
  const others = generations.filter(isIntact).filter((generation) => generation.number !== state.pointer.generation);
  const checkpoints = others.filter((generation) => generation.manifest.kind === "checkpoint");
  const kept = new Set(checkpoints.slice(Math.max(0, checkpoints.length - options.keepCheckpoints)));
  for (const generation of others.filter((other) => !kept.has(other))) {
    await removeGenerationFolder(context, generation.folder);
    removed.push(generation.folder);
  }
  if (!options.removesFiles) return { removed };
  if (!generations.every(isIntact)) {
    log.warn({ folder: paths.folder }, "a generation is damaged: files that no other names are kept");
    return { removed };
  }
  await removeUnnamed(context, [current, ...kept], options.inUse, removed);
  return { removed };
}

async function removeUnnamed(
  context: ImageContext,
  generations: readonly Generation[],
  inUse: FilesInUse,
  removed: string[],
): Promise<void> {
  const { paths, onStep } = context;
  const layers = new Set([...inUse.layers, ...generations.flatMap(({ manifest }) => manifest.disk.layers.map((layer) => layer.file))]);
  const bases = new Set([
    ...inUse.bases,
    ...generations.flatMap(({ manifest }) => (manifest.memory === null ? [] : [manifest.memory.base.file])),
  ]);
  for (const [folder, suffix, named] of [
    [paths.disk, layerSuffix, layers],
    [paths.memory, baseSuffix, bases],
  ] as const) {
    const unnamed = (await readdir(folder)).filter((name) => name.endsWith(suffix) && !name.startsWith(".") && !named.has(name));
    for (const name of unnamed) {
      await rm(join(folder, name), { force: true });
      removed.push(join(folder, name));
      await onStep("prune:file-removed");
    }
    if (unnamed.length > 0) await syncFolder(folder);
  }
}
