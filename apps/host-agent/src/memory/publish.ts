import { mkdir, rename, rm, stat } from "node:fs/promises";
import { basename, join } from "node:path";

import { assert, syncFolder, type Logger } from "@roost/kit";

import type { DigestedFile, FileDigests } from "./checksum.ts";
import type { OnStep } from "./durable-steps.ts";
import { syncFile, writeSynced } from "./file-io.ts";
import type { Generation } from "./generations.ts";
import type { ImagePaths } from "./image-paths.ts";
import { manifestFile, sealManifest, type BaseFile, type LargeFile, type Manifest } from "./manifest.ts";
import { readPointer, writePointer } from "./pointer.ts";

/** What all work on one image folder shares. */
export interface ImageContext {
  readonly paths: ImagePaths;
  readonly digests: FileDigests;
  readonly onStep: OnStep;
  readonly log: Logger;
}

export async function makeStaging({ paths, onStep }: ImageContext): Promise<string> {
  const folder = paths.staging(paths.generations);
  await mkdir(folder, { mode: 0o700 });
  try {
    await onStep("stage:made");
    return folder;
  } catch (error) {
    await rm(folder, { recursive: true, force: true });
    throw error;
  }
}

export interface Publication {
  readonly staging: string;
  readonly content: Omit<Manifest, "checksum">;
  /** Layers that no committed generation has made durable yet; diff and device state are */
  readonly newLayers: readonly string[];
  /** Whether it is the current generation from now on */
  readonly becomesCurrent: boolean;
}

/**
 * The commit protocol. Each step is durable before the next begins:
 *
 *     1. diff, device state, manifest and new layers fsynced, then the folders that name them
 *     2. staging renamed to `<n>.<r>`, `generations/` fsynced: complete, and unknown to everybody
 *     3. `current` replaced: the commit
 *
 * When a step fails everything is put back and the generation is gone; when the process dies `recover` does one or the other.
 */
export async function publish(context: ImageContext, publication: Publication): Promise<Generation> {
  const { paths, onStep } = context;
  const { staging, newLayers, becomesCurrent } = publication;
  const { text, manifest, digest } = sealManifest(publication.content);
  const folder = paths.generation(manifest.generation, manifest.revision);
  await Promise.all([
    writeSynced(join(staging, manifestFile), text, 0o400),
    ...newLayers.map(async (layer) => syncFile(paths.layer(layer))),
  ]);
  await onStep("commit:files-synced");
  await Promise.all([staging, paths.disk, paths.memory].map(syncFolder));
  await onStep("commit:folders-synced");
  let isRenamed = false;
  try {
    await rename(staging, folder);
    isRenamed = true;
    await onStep("commit:renamed");
    await syncFolder(paths.generations);
    await onStep("commit:published");
    if (becomesCurrent) {
      const state = await readPointer(paths);
      const newest = Math.max(manifest.generation, state.kind === "present" ? state.pointer.newest : 0);
      await writePointer(paths, { generation: manifest.generation, revision: manifest.revision, newest, manifest: digest }, onStep);
    }
  } catch (error) {
    // Where even the old pointer could not be put back the new one holds, and what it names stays
    if (isRenamed && !(await isCurrent(paths, digest))) await removeGenerationFolder({ ...context, onStep: () => undefined }, folder);
    throw error;
  }
  return { number: manifest.generation, revision: manifest.revision, folder, manifest, manifestDigest: digest };
}

async function isCurrent(paths: ImagePaths, manifestDigest: string): Promise<boolean> {
  const state = await readPointer(paths);
  return state.kind === "present" && state.pointer.manifest === manifestDigest;
}

/** Takes a generation's name away, durably, before its files: no half of it is ever found under its name. */
export async function removeGenerationFolder({ paths, onStep }: ImageContext, folder: string): Promise<void> {
  const dead = paths.dead(folder);
  try {
    await rename(folder, dead);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  await onStep("remove:renamed");
  await syncFolder(paths.generations);
  await onStep("remove:synced");
  await rm(dead, { recursive: true, force: true });
  await onStep("remove:deleted");
}

/** What a manifest says of a base file. Hashed unless its digest is known. */
export async function describeBase(context: ImageContext, file: string): Promise<BaseFile> {
  return { file, ...(await digestFrozen(context, context.paths.base(file))) };
}

/** What a manifest says of layers. */
export async function describeLayers(context: ImageContext, files: readonly string[]): Promise<LargeFile[]> {
  const layers: LargeFile[] = [];
  for (const file of files) {
    const { sizeBytes, digest, identity } = await digestFrozen(context, context.paths.layer(file));
    layers.push({ file, sizeBytes, digest, identity });
  }
  return layers;
}

async function digestFrozen(context: ImageContext, path: string): Promise<DigestedFile> {
  const { mode } = await stat(path);
  assert((mode & 0o222) === 0, `${basename(path)} is frozen before a generation names it`);
  return context.digests.of(path);
}
