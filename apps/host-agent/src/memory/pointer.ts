import { rename, rm } from "node:fs/promises";

import { syncFolder } from "@roost/kit";
import { z } from "zod";

import type { OnStep } from "./durable-steps.ts";
import { readBounded, writeSynced } from "./file-io.ts";
import { whyUnreadable } from "./image-damaged.ts";
import type { ImagePaths } from "./image-paths.ts";
import { seal, unseal } from "./sealed-json.ts";

/** Longest pointer in `bytes`; three lines are usual */
const pointerBytesMax = 4096;

const numberSchema = z
  .int()
  .min(1)
  .max(2 ** 40);
const pointerSchema = z.strictObject({
  checksum: z.string(),
  formatVersion: z.literal(1),
  /** What a start begins from */
  generation: numberSchema,
  revision: numberSchema,
  /** Greatest number that was ever committed: after a rollback it is not the current one. Numbers are not used again. */
  newest: numberSchema,
  /** Digest of its `manifest.json` */
  manifest: z.string().regex(/^sha256:[0-9a-f]{64}$/),
});
export type Pointer = Omit<z.infer<typeof pointerSchema>, "checksum" | "formatVersion">;

/** What `current` says. Damaged: nothing is concluded from it. */
export type PointerState =
  | { readonly kind: "present"; readonly pointer: Pointer; readonly bytes: Buffer }
  | { readonly kind: "missing"; readonly bytes: null }
  | { readonly kind: "damaged"; readonly why: string; readonly bytes: Buffer };

export async function readPointer(paths: ImagePaths): Promise<PointerState> {
  let bytes: Buffer;
  try {
    bytes = await readBounded(paths.pointer, pointerBytesMax);
  } catch (error) {
    const { code, syscall } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") return { kind: "missing", bytes: null };
    if (syscall !== undefined) throw error;
    return { kind: "damaged", why: `${paths.pointer}: ${(error as Error).message}`, bytes: Buffer.alloc(0) };
  }
  try {
    const { generation, revision, newest, manifest } = pointerSchema.parse(unseal(bytes));
    if (newest < generation) throw new Error("names a generation that is newer than the newest");
    return { kind: "present", pointer: { generation, revision, newest, manifest }, bytes };
  } catch (error) {
    return { kind: "damaged", why: `${paths.pointer}: ${whyUnreadable(error)}`, bytes };
  }
}

/**
 * Makes a generation the current one: after this returns a crash of the host does not change that. Before the rename the old pointer holds.
 * When it fails the old pointer is back, as far as the disk still takes it.
 */
export async function writePointer(paths: ImagePaths, pointer: Pointer, onStep: OnStep): Promise<void> {
  const old = await readPointer(paths);
  const staging = paths.staging(paths.folder);
  let isReplaced = false;
  try {
    await writeSynced(staging, seal({ formatVersion: 1, ...pointer }), 0o600);
    await onStep("current:written");
    await rename(staging, paths.pointer);
    isReplaced = true;
    await onStep("current:renamed");
    await syncFolder(paths.folder);
    await onStep("current:synced");
  } catch (error) {
    await rm(staging, { force: true });
    if (isReplaced) await putBack(paths, old);
    throw error;
  }
}

async function putBack(paths: ImagePaths, old: PointerState): Promise<void> {
  if (old.kind === "missing") await rm(paths.pointer, { force: true });
  else {
    const staging = paths.staging(paths.folder);
    await writeSynced(staging, old.bytes, 0o600);
    await rename(staging, paths.pointer);
  }
  await syncFolder(paths.folder);
}
