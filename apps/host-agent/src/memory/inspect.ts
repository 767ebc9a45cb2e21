import { stat } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";

import { FileDigests } from "./checksum.ts";
import { isIntact, listGenerations, type DamagedGeneration, type Generation } from "./generations.ts";
import { ImagePaths } from "./image-paths.ts";
import { manifestFile, type Manifest } from "./manifest.ts";
import { readPointer, type PointerState } from "./pointer.ts";
import { findDamage } from "./verify.ts";

export { resolveImageTarget, type ImageTarget } from "./image-target.ts";

export interface FileReport {
  /** Absolute */
  readonly path: string;
  /** What the manifest says of it */
  readonly sizeBytes: number;
  readonly digest: string;
  /** What it takes on disk in `bytes`; null: it does not exist */
  readonly allocatedBytes: number | null;
  /** Names it has in the file system: how many image folders share it */
  readonly links: number | null;
}

export interface GenerationReport {
  readonly generation: number;
  readonly revision: number;
  readonly folder: string;
  readonly isCurrent: boolean;
  /** Null: the manifest cannot be read */
  readonly manifest: Manifest | null;
  readonly files: {
    readonly manifest: FileReport | null;
    readonly base: FileReport | null;
    readonly diff: FileReport | null;
    readonly deviceState: FileReport | null;
    readonly layers: readonly FileReport[];
  };
  /** What is not as it was committed; empty: every byte is */
  readonly damage: readonly string[];
}

export interface ImageReport {
  readonly folder: string;
  readonly current: { readonly generation: number; readonly revision: number; readonly newest: number } | null;
  /** What is wrong with `current` */
  readonly damage: readonly string[];
  readonly generations: readonly GenerationReport[];
  readonly isVerified: boolean;
}

/**
 * Everything about the generations of an image folder (or one of them), with every byte read and compared. It writes nothing. Beside a running host agent
 * a generation may be replaced or removed while it is read; then it is reported as damaged, and is not there the next time.
 */
export async function inspectImage(
  folder: string,
  options: { readonly generation: number | null; readonly signal?: AbortSignal },
): Promise<ImageReport> {
  const paths = new ImagePaths(folder);
  const state = await readPointer(paths);
  const all = await listGenerations(paths, state);
  const chosen = options.generation === null ? all : all.filter((generation) => generation.number === options.generation);
  if (chosen.length === 0 && options.generation !== null) {
    const numbers = all.map((generation) => generation.number).join(", ");
    throw new PlatformError(
      "generation_not_found",
      `there is no generation ${options.generation}; there ${numbers === "" ? "are none" : `is ${numbers}`}`,
    );
  }
  const digests = new FileDigests();
  const generations: GenerationReport[] = [];
  for (const generation of chosen) generations.push(await report(paths, generation, state, digests, options.signal));
  const damage = pointerDamage(paths, state, all);
  const pointer = state.kind === "present" ? state.pointer : null;
  return {
    folder,
    current: pointer === null ? null : { generation: pointer.generation, revision: pointer.revision, newest: pointer.newest },
    damage,
    generations,
    isVerified: damage.length === 0 && generations.every((generation) => generation.damage.length === 0),
  };
}

function pointerDamage(paths: ImagePaths, state: PointerState, all: readonly (Generation | DamagedGeneration)[]): string[] {
  if (state.kind === "damaged") return [state.why];
  if (state.kind === "missing") return all.length === 0 ? [] : [`${paths.pointer}: does not exist, but generations do`];
  const { pointer } = state;
  const named = all.find((generation) => generation.number === pointer.generation && generation.revision === pointer.revision);
  if (named === undefined) return [`${paths.pointer}: names generation ${pointer.generation}.${pointer.revision}, which does not exist`];
  if (isIntact(named) && named.manifestDigest !== pointer.manifest) {
    return [`${paths.pointer}: names the manifest ${pointer.manifest}, and there is ${named.manifestDigest}`];
  }
  return [];
}

async function report(
  paths: ImagePaths,
  generation: Generation | DamagedGeneration,
  state: PointerState,
  digests: FileDigests,
  signal: AbortSignal | undefined,
): Promise<GenerationReport> {
  const { number, revision, folder } = generation;
  const isCurrent = state.kind === "present" && state.pointer.generation === number && state.pointer.revision === revision;
  const about = { generation: number, revision, folder, isCurrent };
  if (!isIntact(generation)) {
    const files = { manifest: null, base: null, diff: null, deviceState: null, layers: [] };
    return { ...about, manifest: null, files, damage: [generation.error.detail ?? generation.error.message] };
  }
  const { manifest } = generation;
  const { memory, disk } = manifest;
  const path = join(folder, manifestFile);
  const { size } = await stat(path);
  const layers: FileReport[] = [];
  for (const layer of disk.layers) layers.push(await describe(paths.layer(layer.file), layer));
  const files = {
    manifest: await describe(path, { sizeBytes: size, digest: generation.manifestDigest }),
    base: memory === null ? null : await describe(paths.base(memory.base.file), memory.base),
    diff: memory === null ? null : await describe(join(folder, memory.diff.file), memory.diff),
    deviceState: memory === null ? null : await describe(join(folder, memory.deviceState.file), memory.deviceState),
    layers,
  };
  const damage = await findDamage(paths, generation, digests, { deep: true, readsOnce: true, ...(signal === undefined ? {} : { signal }) });
  return { ...about, manifest, files, damage };
}

async function describe(path: string, { sizeBytes, digest }: { readonly sizeBytes: number; readonly digest: string }): Promise<FileReport> {
  const status = await stat(path).catch(() => undefined); // told as damage
  return { path, sizeBytes, digest, allocatedBytes: status === undefined ? null : status.blocks * 512, links: status?.nlink ?? null };
}
