import { createHash } from "node:crypto";
import { open } from "node:fs/promises";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { createGunzip } from "node:zlib";

import { PlatformError } from "@roost/contract";
import { MiB } from "@roost/kit";

import { contained, type Containment } from "./contained.ts";
import { tooLarge } from "./image-tree.ts";
import { unpackTimeoutMs } from "./limits.ts";
import { startPiped } from "./piped.ts";
import type { TarSource } from "./tar-reader.ts";
import { unusable } from "./unusable.ts";

/** A layer as it was fetched: a range of a file, compressed or not. */
export interface PackedLayer {
  readonly source: TarSource;
  /** SHA-256 of its uncompressed bytes, as the image's configuration says */
  readonly diffId: string;
}

export interface UnpackOptions {
  /** For a program that decompresses */
  readonly where: Containment;
  /** The uncompressed archive, if it has to be written */
  readonly path: string;
  /** Of all layers: what is left of it in `bytes` */
  readonly left: { bytes: number; readonly bytesMax: number };
  readonly signal: AbortSignal;
}

/** The bytes a layer says it has are others. */
export class LayerDamaged extends PlatformError {
  constructor(what: string, cause?: unknown) {
    super("image_unusable", `a layer of the image is damaged (${what}); push the image again`, cause === undefined ? {} : { cause });
  }
}

/** Decompresses a layer into a file, unless it can be read where it is, and compares its digest. Who called closes the file of what is returned, if it is another. */
export async function unpackLayer({ source, diffId }: PackedLayer, options: UnpackOptions): Promise<TarSource> {
  const compression = await compressionOf(source);
  if (compression === "none") {
    const hash = createHash("sha256");
    for await (const chunk of readRange(source, options.signal)) take(chunk as Buffer, hash, options);
    compare(hash.digest("hex"), diffId);
    return source;
  }
  const file = await open(options.path, "wx+", 0o600);
  try {
    const hash = createHash("sha256");
    let length = 0;
    await decompress(compression, source, options, async (chunk) => {
      take(chunk, hash, options);
      for (let done = 0; done < chunk.length;) done += (await file.write(chunk, done, chunk.length - done, length + done)).bytesWritten;
      length += chunk.length;
    });
    compare(hash.digest("hex"), diffId);
    return { file, start: 0, length };
  } catch (error) {
    await file.close();
    throw error;
  }
}

function take(chunk: Buffer, hash: { update(data: Buffer): unknown }, { left }: UnpackOptions): void {
  left.bytes -= chunk.length;
  if (left.bytes < 0) throw tooLarge(left.bytesMax);
  hash.update(chunk);
}

function compare(hex: string, diffId: string): void {
  if (`sha256:${hex}` !== diffId) throw new LayerDamaged("its digest is not the one that the image's configuration says");
}

type Sink = (chunk: Buffer) => Promise<void>;

async function decompress(compression: "gzip" | "zstd", source: TarSource, options: UnpackOptions, sink: Sink): Promise<void> {
  // What the sink fails with counts, not what the streams say when they are cut off for it
  let failure: unknown;
  const writeAll = async (chunks: AsyncIterable<Buffer>) => {
    try {
      for await (const chunk of chunks) await sink(chunk);
    } catch (error) {
      if (error instanceof PlatformError || (error as NodeJS.ErrnoException).code === "ENOSPC") failure = error;
      throw error;
    }
  };
  const input = readRange(source, options.signal);
  try {
    if (compression === "gzip") {
      await pipeline(input, createGunzip({ chunkSize: chunkBytes }), writeAll, { signal: options.signal });
      return;
    }
    // Node's own zstd is younger than the Node we run on. The limit is the most that images' writers ask of a reader
    const program = startPiped(contained(["zstd", "-dcq", "--memory=512MiB"], options.where), {
      timeoutMs: unpackTimeoutMs,
      signal: options.signal,
    });
    await Promise.all([
      pipeline(input, program.stdin, { signal: options.signal }),
      pipeline(program.stdout, writeAll, { signal: options.signal }),
      program.ended,
    ]);
  } catch (error) {
    options.signal.throwIfAborted();
    if (failure !== undefined) throw failure;
    throw new LayerDamaged("it cannot be decompressed", error);
  }
}

const chunkBytes = MiB;

function readRange({ file, start, length }: TarSource, signal: AbortSignal): Readable {
  if (length === 0) return Readable.from([]);
  return file.createReadStream({ start, end: start + length - 1, autoClose: false, highWaterMark: chunkBytes, signal });
}

async function compressionOf({ file, start, length }: TarSource): Promise<"none" | "gzip" | "zstd"> {
  const magic = Buffer.alloc(6);
  await file.read(magic, 0, Math.min(magic.length, length), start);
  if (magic[0] === 0x1f && magic[1] === 0x8b) return "gzip";
  if (magic.readUInt32LE(0) === 0xfd2fb528 || (magic.readUInt32LE(0) & 0xfffffff0) >>> 0 === 0x184d2a50) return "zstd";
  if (magic.toString("latin1", 0, 3) === "BZh" || magic.toString("latin1", 1, 5) === "7zXZ") {
    throw unusable("a layer of the image is compressed with bzip2 or xz; push the image with gzip or zstd layers");
  }
  return "none";
}
