import { readdir, rm } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";

import { isIntact, listGenerations, listRevisions, readCurrent, tryRevision, type Generation } from "./generations.ts";
import { isUnfinished, type GenerationName } from "./image-paths.ts";
import { readPointer, writePointer, type Pointer, type PointerState } from "./pointer.ts";
import { removeGenerationFolder, type ImageContext } from "./publish.ts";
import { findDamage } from "./verify.ts";

export interface RecoverReport {
  /** Current generation afterwards; null: none was ever committed, or it is damaged */
  readonly current: number | null;
  /** Generation or revision, such as `3.1`, that was complete although nobody had been told, and is current now */
  readonly rolledForward: string | null;
  /** Generations that were complete, but nobody had been told and their files have changed since: removed */
  readonly rolledBack: readonly string[];
  /** `current` was missing or unreadable and was written anew from the only generation there is */
  readonly isPointerRebuilt: boolean;
  /** What cannot be restored, and why; left alone */
  readonly damaged: readonly { readonly what: string; readonly detail: string }[];
  /** Unfinished or superseded, removed */
  readonly removed: readonly string[];
}

/**
 * Brings an image folder to its old or its new state after a crash, before anything is cleaned up:
 *
 * 1. A generation that is newer than any that `current` has known is complete, because only complete ones have a name. It was not acknowledged: it
 *    becomes current when all its files still are what it names, since that loses least. When they are not (the commit failed, the guest went on and
 *    wrote to a layer, and only the removal was cut off) it is removed.
 * 2. Of several revisions of a generation the highest that can be read counts; they have the same content.
 * 3. Only then what is unfinished or superseded is deleted. What is damaged is told and left alone.
 */
export async function recover(context: ImageContext): Promise<RecoverReport> {
  const { paths } = context;
  const report = { rolledForward: null as string | null, rolledBack: [] as string[], removed: [] as string[], isPointerRebuilt: false };
  let state = await readPointer(paths);
  const known = state.kind === "present" ? state.pointer : await rebuildPointer(context, state, report);
  if (known !== undefined) await rollForward(context, known, report);
  state = await readPointer(paths);
  await removeUnfinished(context, report.removed);
  if (state.kind === "present") await removeSuperseded(context, state.pointer, report.removed);
  return { ...report, ...(await findCurrentAndDamage(context, state)) };
}

/** Writes a new pointer where exactly one generation is there and whole. With more nobody can tell which one was current: it may have been rolled back. */
async function rebuildPointer(
  context: ImageContext,
  state: PointerState,
  report: { isPointerRebuilt: boolean; rolledForward: string | null },
): Promise<Pointer | undefined> {
  const [only, ...more] = await listGenerations(context.paths, state);
  if (only === undefined || more.length > 0 || !isIntact(only) || !(await isWhole(context, only))) return undefined;
  const pointer = pointerTo(only, only.number);
  await writePointer(context.paths, pointer, context.onStep);
  report.isPointerRebuilt = state.kind === "damaged";
  if (state.kind === "missing") report.rolledForward = nameOf(only); // its first commit was cut off
  return pointer;
}

async function rollForward(
  context: ImageContext,
  known: Pointer,
  report: { rolledForward: string | null; readonly rolledBack: string[]; readonly removed: string[] },
): Promise<void> {
  const { paths } = context;
  let { newest } = known;
  let target: Generation | undefined;
  for (const name of await listRevisions(paths)) {
    const isNewer = name.number > known.newest;
    const isRevised = name.number === known.generation && name.revision > known.revision;
    if (!isNewer && !isRevised) continue;
    const generation = await tryRevision(paths, name);
    if (!isIntact(generation)) continue; // told as damaged
    if (await isWhole(context, generation)) {
      target = generation;
      newest = Math.max(newest, generation.number);
    } else {
      await removeGenerationFolder(context, generation.folder);
      report.rolledBack.push(nameOf(generation));
    }
  }
  if (target === undefined) return;
  await writePointer(paths, pointerTo(target, newest), context.onStep);
  report.rolledForward = nameOf(target);
}

async function removeUnfinished({ paths }: ImageContext, removed: string[]): Promise<void> {
  for (const folder of [paths.generations, paths.memory, paths.disk, paths.folder]) {
    const names = await readdir(folder).catch((error: NodeJS.ErrnoException) => {
      if (error.code === "ENOENT") return [];
      throw error;
    });
    for (const name of names.filter(isUnfinished)) {
      await rm(join(folder, name), { recursive: true, force: true });
      removed.push(join(folder, name));
    }
  }
}

async function removeSuperseded(context: ImageContext, pointer: Pointer, removed: string[]): Promise<void> {
  const { paths } = context;
  const revisions = await listRevisions(paths);
  for (const generation of await listGenerations(paths, { kind: "present", pointer, bytes: Buffer.alloc(0) })) {
    if (!isIntact(generation)) continue;
    const superseded = revisions.filter((name) => name.number === generation.number && name.revision < generation.revision);
    for (const { number, revision } of superseded) {
      const folder = paths.generation(number, revision);
      await removeGenerationFolder(context, folder);
      removed.push(folder);
    }
  }
}

async function findCurrentAndDamage({ paths }: ImageContext, state: PointerState): Promise<Pick<RecoverReport, "current" | "damaged">> {
  const damaged: { what: string; detail: string }[] = [];
  let current: number | null = null;
  try {
    current = (await readCurrent(paths))?.number ?? null;
  } catch (error) {
    damaged.push({ what: "current", detail: detailOf(error) });
  }
  for (const generation of await listGenerations(paths, state)) {
    if (!isIntact(generation)) damaged.push({ what: nameOf(generation), detail: detailOf(generation.error) });
  }
  return { current, damaged };
}

async function isWhole(context: ImageContext, generation: Generation): Promise<boolean> {
  return (await findDamage(context.paths, generation, context.digests, { deep: false })).length === 0;
}

function pointerTo({ number, revision, manifestDigest }: Generation, newest: number): Pointer {
  return { generation: number, revision, newest, manifest: manifestDigest };
}

function nameOf({ number, revision }: GenerationName): string {
  return `${number}.${revision}`;
}

function detailOf(error: unknown): string {
  if (!(error instanceof PlatformError && error.code === "image_damaged")) throw error;
  return error.detail ?? error.message;
}
