import { chown, mkdir } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError } from "@roost/contract";
import { digestOfSparseFile, sourceDateEpoch } from "@roost/images";
import { Cleanup, CommandError, formatBytes, type Logger } from "@roost/kit";

import { writeExt4 } from "./ext4.ts";
import { diskFile, type ImageStore, type ImportedImage, type ImportedRecord } from "./image-store.ts";
import { ImageTree, type Budget } from "./image-tree.ts";
import { unpackLayer, type PackedLayer } from "./layer.ts";
import { readTar } from "./tar-reader.ts";
import { unusable } from "./unusable.ts";

export interface ImportProgress {
  readonly phase: "resolve" | "fetch" | "unpack" | "publish";
  /** For people */
  readonly message: string;
  /** 0: unknown */
  readonly doneBytes: number;
  readonly totalBytes: number;
}

export type Report = (progress: ImportProgress) => void;

export interface MakeOptions {
  readonly store: ImageStore;
  /** Work folder, root's; whoever made it removes it */
  readonly folder: string;
  readonly uid: number;
  readonly bytesMax: number;
  /** Rejects with `host_disk_full` when so many bytes would be too much */
  readonly checkRoom: (neededBytes: number) => Promise<void>;
  readonly layers: readonly PackedLayer[];
  readonly askedMib: number;
  /** Of what is made; digest and size follow from the layers */
  readonly record: Pick<ImportedRecord, "name" | "sourceDigest" | "request" | "config">;
  readonly signal: AbortSignal;
  readonly report: Report;
  readonly log: Logger;
}

/** Makes an image of layers and publishes it. Leaves nothing behind but that. */
export async function makeImage(options: MakeOptions): Promise<ImportedImage> {
  const { store, folder, uid, signal, report, layers } = options;
  await using cleanup = new Cleanup();
  const startedMs = performance.now();
  const packedBytes = layers.reduce((sum, { source }) => sum + source.length, 0);
  await options.checkRoom(roomFactor * packedBytes);
  const tree = await mergeLayers(options, packedBytes, cleanup);
  const mergedMs = performance.now();

  const diskFolder = join(folder, "disk");
  await mkdir(diskFolder, { mode: 0o700 });
  await chown(diskFolder, uid, uid);
  const staging = await store.createStaging();
  cleanup.defer("remove the staging folder", async () => store.removeStaging(staging));
  report({ phase: "unpack", message: "writing the disk", doneBytes: packedBytes, totalBytes: packedBytes });
  const image = join(staging, diskFile);
  const disk = { image, folder: diskFolder, uid, signal, askedMib: options.askedMib, timeSec: sourceDateEpoch };
  const diskSizeMib = await writeExt4(tree, disk).catch((error: unknown) => {
    throw diskFailure(error);
  });
  const writtenMs = performance.now();

  report({ phase: "publish", message: "checking the disk's content", doneBytes: 0, totalBytes: 0 });
  const digest = await digestOfSparseFile(image, signal);
  signal.throwIfAborted();
  const made = await store.publish(staging, { ...options.record, digest, diskSizeMib, timeCreatedMs: Date.now() });
  options.log.info(
    {
      image: made.record.name,
      layers: layers.length,
      packed: formatBytes(packedBytes),
      mergeMs: Math.round(mergedMs - startedMs),
      writeMs: Math.round(writtenMs - mergedMs),
      publishMs: Math.round(performance.now() - writtenMs),
    },
    "imported an image",
  );
  return made;
}

/** Free disk an import needs at its peak, as a multiple of its packed layers: unpacked ones, the draft of the disk, and the disk */
const roomFactor = 6;

async function mergeLayers(options: MakeOptions, packedBytes: number, cleanup: Cleanup): Promise<ImageTree> {
  const { layers, folder, uid, signal, report, bytesMax } = options;
  const budget: Budget = { entries: 0, bytes: 0, bytesMax };
  const tree = new ImageTree(budget, sourceDateEpoch);
  const left = { bytes: bytesMax, bytesMax };
  let doneBytes = 0;
  for (const [index, layer] of layers.entries()) {
    report({ phase: "unpack", message: `reading layer ${index + 1} of ${layers.length}`, doneBytes, totalBytes: packedBytes });
    await options.checkRoom(layer.source.length);
    const where = { folder, uid, hasNetwork: false };
    const unpacked = unpackLayer(layer, { where, path: join(folder, `layer-${index}.tar`), left, signal });
    const source = await unpacked.catch((error: unknown) => {
      throw diskFailure(error);
    });
    // Contents are read from it when the disk is written
    if (source.file !== layer.source.file) cleanup.defer("close an unpacked layer", async () => source.file.close());
    await tree.apply(readTar(source, signal), source.file);
    doneBytes += layer.source.length;
  }
  tree.complete();
  return tree;
}

function diskFailure(error: unknown): unknown {
  const isFull =
    (error as NodeJS.ErrnoException | null)?.code === "ENOSPC" || (error instanceof CommandError && /No space left/.test(error.stderr));
  if (isFull) {
    return new PlatformError("host_disk_full", "the host's disk is full, so it cannot import the image right now", {
      cause: error,
      retryAfterSec: 60,
    });
  }
  if (!(error instanceof CommandError)) return error;
  if (error.message.includes("took longer than"))
    return unusable("the image takes too long to unpack; make it smaller", error.message, error);
  if (error.exitCode === null) return error;
  return unusable("the image's files cannot be put on a disk; if Docker can run it, this is worth a bug report", error.message, error);
}
