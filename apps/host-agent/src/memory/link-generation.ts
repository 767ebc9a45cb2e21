import { link, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { syncFolder } from "@roost/kit";

import type { Generation } from "./generations.ts";
import type { ImagePaths } from "./image-paths.ts";
import type { BaseFile, GenerationKind, LargeFile, Manifest } from "./manifest.ts";
import { makeStaging, publish, removeGenerationFolder, type ImageContext } from "./publish.ts";

/**
 * Hard-links a file. Present already as the same file: fine, an earlier try died after it. Returns whether a link was made.
 */
export async function linkFile(from: string, to: string): Promise<boolean> {
  try {
    await link(from, to);
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST" || !(await isSameFile(from, to))) throw error;
    return false;
  }
}

export async function isSameFile(one: string, other: string): Promise<boolean> {
  const [a, b] = await Promise.all([stat(one, { bigint: true }), stat(other, { bigint: true })]);
  return a.ino === b.ino && a.dev === b.dev;
}

/** Links everything that a generation names into another image folder and commits it there as its first. Undone when it fails. */
export async function linkGeneration(
  source: ImagePaths,
  generation: Generation,
  target: ImageContext,
  about: { readonly kind: GenerationKind; readonly sandboxId: string | null },
): Promise<Generation> {
  const { manifest } = generation;
  const made: string[] = [];
  const linkOne = async (from: string, to: string): Promise<void> => {
    if (await linkFile(from, to)) made.push(to);
  };
  const staging = await makeStaging(target);
  try {
    for (const { file } of manifest.disk.layers) await linkOne(source.layer(file), target.paths.layer(file));
    if (manifest.memory !== null) await linkMemory(source, generation, target.paths, staging, manifest.memory, linkOne);
    await target.onStep("link:linked");
    const content = { ...withoutChecksum(manifest), generation: 1, revision: 1, timeCreatedMs: Date.now(), ...about };
    return await publish(target, { staging, content, newLayers: [], becomesCurrent: true });
  } catch (error) {
    for (const path of made.toReversed()) await rm(path, { force: true });
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
}

async function linkMemory(
  source: ImagePaths,
  generation: Generation,
  target: ImagePaths,
  staging: string,
  memory: NonNullable<Manifest["memory"]>,
  linkOne: (from: string, to: string) => Promise<void>,
): Promise<void> {
  await linkOne(source.base(memory.base.file), target.base(memory.base.file));
  for (const { file } of [memory.diff, memory.deviceState]) await linkOne(join(generation.folder, file), join(staging, file));
}

/** What a revision has in place of what the generation had. The guest's memory and disk are the same in both. */
export interface RevisionChanges {
  /** Writes another diff to the path it gets; its base file is in `memory/` */
  readonly memory?: { readonly base: BaseFile; readonly writeDiff: (path: string) => Promise<NonNullable<Manifest["memory"]>["diff"]> };
  readonly layers?: readonly LargeFile[];
}

/** Commits another revision of a generation and removes the one before. When it fails that one still counts. */
export async function publishRevision(
  context: ImageContext,
  generation: Generation,
  revision: number,
  changes: RevisionChanges,
  isCurrent: boolean,
): Promise<Generation> {
  const { manifest, folder } = generation;
  const staging = await makeStaging(context);
  let published: Generation;
  try {
    const memory = await reviseMemory(staging, generation, changes);
    const layers = changes.layers === undefined ? manifest.disk.layers : [...changes.layers];
    await context.onStep("link:linked");
    const content = { ...withoutChecksum(manifest), revision, memory, disk: { ...manifest.disk, layers } };
    const newLayers = changes.layers?.map((layer) => layer.file) ?? [];
    published = await publish(context, { staging, content, newLayers, becomesCurrent: isCurrent });
  } catch (error) {
    await rm(staging, { recursive: true, force: true });
    throw error;
  }
  await removeGenerationFolder(context, folder).catch((error: unknown) => {
    context.log.warn({ err: error, folder }, "a superseded revision could not be removed; the next start does it");
  });
  return published;
}

async function reviseMemory(staging: string, { manifest, folder }: Generation, changes: RevisionChanges): Promise<Manifest["memory"]> {
  const { memory } = manifest;
  if (memory === null) return null;
  await link(join(folder, memory.deviceState.file), join(staging, memory.deviceState.file));
  if (changes.memory === undefined) {
    await link(join(folder, memory.diff.file), join(staging, memory.diff.file));
    return memory;
  }
  const diff = await changes.memory.writeDiff(join(staging, memory.diff.file));
  return { ...memory, base: changes.memory.base, diff };
}

function withoutChecksum(manifest: Manifest): Omit<Manifest, "checksum"> {
  const { checksum: _checksum, ...content } = manifest;
  return content;
}

/** Makes the entries of the folders of an image durable. */
export async function syncImageFolders(paths: ImagePaths): Promise<void> {
  await Promise.all([paths.folder, paths.disk, paths.memory, paths.generations].map(syncFolder));
}
