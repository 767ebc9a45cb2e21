import { readdir } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";

import { readBounded } from "./file-io.ts";
import { parseGenerationName, type GenerationName, type ImagePaths } from "./image-paths.ts";
import { imageDamaged, readError } from "./image-damaged.ts";
import { manifestBytesMax, manifestFile, readManifest, type Manifest } from "./manifest.ts";
import { readPointer, type Pointer, type PointerState } from "./pointer.ts";

/** A committed generation whose manifest is as it was written. Its files are looked at by `verify`. */
export interface Generation {
  readonly number: number;
  readonly revision: number;
  /** Absolute folder of manifest, diff and device state */
  readonly folder: string;
  readonly manifest: Manifest;
  /** Of `manifest.json`, as `current` states it */
  readonly manifestDigest: string;
}

/** A generation none of whose revisions can be read. */
export interface DamagedGeneration {
  readonly number: number;
  readonly revision: number;
  readonly folder: string;
  /** `image_damaged` */
  readonly error: PlatformError;
}

export function isIntact(generation: Generation | DamagedGeneration): generation is Generation {
  return "manifest" in generation;
}

/** All revisions that there are, oldest first. No generations folder: none. */
export async function listRevisions(paths: ImagePaths): Promise<GenerationName[]> {
  const names = await readdir(paths.generations).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return [];
    throw error;
  });
  return names
    .map((name) => parseGenerationName(name))
    .filter((name) => name !== undefined)
    .sort((a, b) => a.number - b.number || a.revision - b.revision);
}

/** Reads one revision; `image_damaged` when its manifest is not as it was written. */
export async function readRevision(paths: ImagePaths, name: GenerationName): Promise<Generation> {
  const folder = paths.generation(name.number, name.revision);
  const path = join(folder, manifestFile);
  try {
    const bytes = await readBounded(path, manifestBytesMax);
    const { manifest, digest } = readManifest(bytes, path);
    if (manifest.generation !== name.number || manifest.revision !== name.revision) {
      throw imageDamaged(`${path}: is the manifest of ${manifest.generation}.${manifest.revision}`);
    }
    return { number: name.number, revision: name.revision, folder, manifest, manifestDigest: digest };
  } catch (error) {
    throw readError(path, error);
  }
}

/** Each generation at the revision that counts: the one `current` names, else the highest that can be read. Oldest first. */
export async function listGenerations(paths: ImagePaths, state: PointerState): Promise<(Generation | DamagedGeneration)[]> {
  const pointer = state.kind === "present" ? state.pointer : undefined;
  const byNumber = new Map<number, GenerationName[]>();
  for (const name of await listRevisions(paths)) byNumber.set(name.number, [...(byNumber.get(name.number) ?? []), name]);
  const generations: (Generation | DamagedGeneration)[] = [];
  for (const revisions of byNumber.values()) generations.push(await bestOf(paths, revisions, pointer));
  return generations;
}

async function bestOf(paths: ImagePaths, revisions: readonly GenerationName[], pointer: Pointer | undefined) {
  const named = revisions.find((name) => name.number === pointer?.generation && name.revision === pointer.revision);
  const order = named === undefined ? revisions.toReversed() : [named];
  let damaged: DamagedGeneration | undefined;
  for (const name of order) {
    const read = await tryRevision(paths, name);
    if (isIntact(read)) return read;
    damaged ??= read;
  }
  if (damaged === undefined) throw new Error("a generation has at least one revision");
  return damaged;
}

/** `readRevision`, with damage as a value. */
export async function tryRevision(paths: ImagePaths, name: GenerationName): Promise<Generation | DamagedGeneration> {
  try {
    return await readRevision(paths, name);
  } catch (error) {
    if (!(error instanceof PlatformError && error.code === "image_damaged")) throw error;
    return { ...name, folder: paths.generation(name.number, name.revision), error };
  }
}

/** The generation of this number. `generation_not_found`, `image_damaged`. */
export async function findGeneration(paths: ImagePaths, number: number): Promise<Generation> {
  const found = (await listGenerations(paths, await readPointer(paths))).find((generation) => generation.number === number);
  if (found === undefined) throw new PlatformError("generation_not_found", `there is no generation ${number}`, { detail: paths.folder });
  if (!isIntact(found)) throw found.error;
  return found;
}

/** The current generation; null: none was ever committed. `image_damaged` when `current` or what it names is. */
export async function readCurrent(paths: ImagePaths): Promise<Generation | null> {
  const state = await readPointer(paths);
  if (state.kind === "damaged") throw imageDamaged(state.why);
  if (state.kind === "missing") {
    if ((await listRevisions(paths)).length > 0) throw imageDamaged(`${paths.pointer}: does not exist, but generations do`);
    return null;
  }
  const { pointer } = state;
  const generation = await readRevision(paths, { number: pointer.generation, revision: pointer.revision });
  if (generation.manifestDigest !== pointer.manifest) {
    throw imageDamaged(
      `${generation.folder}: its manifest is ${generation.manifestDigest}, not ${pointer.manifest} as ${paths.pointer} says`,
    );
  }
  return generation;
}
