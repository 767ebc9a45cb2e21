import { constants, fchownSync, ftruncateSync, writeSync } from "node:fs";
import { mkdtemp, open, readFile, rename, rm, type FileHandle } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, isAbsolute, join } from "node:path";

import { PlatformError } from "@roost/contract";
import { assert, KiB, MiB, run, second, syncFolder } from "@roost/kit";

/**
 * Layers of a disk: qcow2 files that take writes and show what is below them where they hold nothing.
 *
 * A layer names nothing else: no backing file stands in its header. What lies below it is always said by whoever opens it (see
 * `qemu/block-nodes.ts`), so a layer can be linked into another sandbox's folder and opened there, and a VMM that was taken over cannot make root
 * open a file of its choice by writing its name into a header.
 */

/** Time `qemu-img` has in `ms`: it writes 200 KiB. */
const createTimeoutMs = 30 * second;
/** Sizes of disks whose empty layer is kept in memory, 2 KiB each; a host sees few. */
const emptyLayersMax = 64;
/** A new layer is written in pieces of this many `bytes`; those that are zeros stay holes. */
const pieceBytes = 4 * KiB;
/** Size of a file `qemu-img` makes in `bytes` at most: tables of a disk of 64 TiB. */
const emptyLayerBytesMax = 64 * MiB;

export interface LayerOptions {
  /** Where the layer goes; absolute, must not exist */
  readonly path: string;
  /** Size of the disk in `MiB` */
  readonly sizeMib: number;
  /** Owner, the uid its VMM runs as; nobody else can read or write it */
  readonly uid: number;
  readonly gid: number;
}

interface EmptyLayer {
  readonly sizeBytes: number;
  readonly pieces: readonly { readonly offset: number; readonly bytes: Buffer }[];
}

const emptyLayers = new Map<number, Promise<EmptyLayer>>();

/**
 * Makes an empty layer. It appears under its name complete and durable, or not at all. About a millisecond: only the first one of a
 * size is made by `qemu-img`, the others are copies of it.
 *
 * Rejects with `host_disk_full`, or `sandbox_start_failed` when `qemu-img` does not work.
 */
export async function createLayer(options: LayerOptions): Promise<void> {
  assert(isAbsolute(options.path), "disk paths are absolute");
  assert(options.uid > 0 && options.gid > 0, "a layer belongs to an unprivileged VMM");
  const empty = await emptyLayerOf(options.sizeMib);
  const staging = `${options.path}.new`;
  try {
    {
      await using handle = await openNew(staging);
      // Some KiB into the page cache: each step handed to another thread would take longer than all of them
      ftruncateSync(handle.fd, empty.sizeBytes);
      for (const { offset, bytes } of empty.pieces) writeSync(handle.fd, bytes, 0, bytes.length, offset);
      fchownSync(handle.fd, options.uid, options.gid);
      await handle.sync();
    }
    await rename(staging, options.path);
    await syncFolder(dirname(options.path));
  } catch (error) {
    await rm(staging, { force: true });
    throw diskError(error);
  }
}

/** From now on nobody can open this layer for writing but root, and nobody does. Durable, with all its content. Idempotent. */
export async function freezeLayer(path: string): Promise<void> {
  try {
    await using handle = await openFile(path, constants.O_RDONLY | constants.O_NOFOLLOW);
    await handle.chown(0, 0);
    await handle.chmod(0o444);
    await handle.sync();
  } catch (error) {
    throw diskError(error);
  }
}

/** Removes a layer, and what an unfinished `createLayer` left. Idempotent. */
export async function removeLayer(path: string): Promise<void> {
  await rm(`${path}.new`, { force: true });
  await rm(path, { force: true });
}

async function emptyLayerOf(sizeMib: number): Promise<EmptyLayer> {
  assert(Number.isSafeInteger(sizeMib) && sizeMib > 0, "a disk has a size");
  let layer = emptyLayers.get(sizeMib);
  if (layer === undefined) {
    const oldest = emptyLayers.size >= emptyLayersMax ? emptyLayers.keys().next().value : undefined;
    if (oldest !== undefined) emptyLayers.delete(oldest);
    layer = makeEmptyLayer(sizeMib);
    emptyLayers.set(sizeMib, layer);
    layer.catch(() => emptyLayers.delete(sizeMib)); // the next one tries again
  }
  return layer;
}

async function makeEmptyLayer(sizeMib: number): Promise<EmptyLayer> {
  const folder = await mkdtemp(join(tmpdir(), "roost-layer-"));
  try {
    const path = join(folder, "empty.qcow2");
    await run(["/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1,cluster_size=65536", path, `${sizeMib}M`], {
      timeoutMs: createTimeoutMs,
    });
    return toPieces(await readFile(path));
  } catch (error) {
    throw new PlatformError("sandbox_start_failed", "the sandbox's disk could not be made", { cause: error });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function toPieces(file: Buffer): EmptyLayer {
  assert(file.length <= emptyLayerBytesMax, "an empty layer is small");
  const pieces: { offset: number; bytes: Buffer }[] = [];
  for (let offset = 0; offset < file.length; offset += pieceBytes) {
    const bytes = file.subarray(offset, offset + pieceBytes);
    if (bytes.some((byte) => byte !== 0)) pieces.push({ offset, bytes: Buffer.from(bytes) });
  }
  return { sizeBytes: file.length, pieces };
}

/** A full disk is told as such, whatever was being written. */
export function diskError(error: unknown): unknown {
  const code = (error as NodeJS.ErrnoException).code;
  if (code !== "ENOSPC" && code !== "EDQUOT") return error;
  return new PlatformError("host_disk_full", "the host's disk is full, so it takes no new work right now", {
    detail: (error as Error).message,
    cause: error,
    retryAfterSec: 60,
  });
}

async function openNew(path: string): Promise<FileHandle> {
  try {
    return await openFile(path, "wx", 0o600);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    await rm(path, { force: true }); // left by a crash
    return openFile(path, "wx", 0o600);
  }
}

async function openFile(path: string, flags: string | number, mode?: number): Promise<FileHandle> {
  return open(path, flags, mode);
}
