import { createHash } from "node:crypto";
import type { BigIntStats } from "node:fs";
import { stat } from "node:fs/promises";
import { crc32 } from "node:zlib";

import { MiB } from "@roost/kit";
import { z } from "zod";

import { openFile, readFully } from "./file-io.ts";
import { Pace } from "./pace.ts";

/**
 * Digests of the files of memory images.
 *
 * Small ones have their SHA-256. Layers and base files are hundreds of MiB, and SHA-256 takes 0.6 ms a MiB here: they have the SHA-256 over the
 * CRC-32s of their 4 MiB blocks, a third of that. It is against accidents, not against somebody who can write root's files.
 */

/** `crc32-4m:` and the SHA-256 over the CRC-32s (u32, little-endian) of a file's 4 MiB blocks; the last may be shorter */
export const largeDigestSchema = z.string().regex(/^crc32-4m:[0-9a-f]{64}$/);
export const digestBlockBytes = 4 * MiB;

/**
 * Which of those blocks hold anything but zeros, in hex: block `n` is bit `n % 8` of byte `n / 8`. Reading a hole costs as much as reading data, and
 * fills the page cache; most of a guest's memory is holes.
 */
export const dataMapSchema = z.string().regex(/^([0-9a-f]{2})*$/);

/** Whether a data map says that block `index` holds data; what it does not tell may. */
export function hasData(dataMap: string, index: number): boolean {
  const byte = Number.parseInt(dataMap.slice(Math.trunc(index / 8) * 2, Math.trunc(index / 8) * 2 + 2), 16);
  return Number.isNaN(byte) || (byte & (1 << (index % 8))) !== 0;
}
export const smallDigestPrefix = "sha256:";

/** Which bytes a file name led to when they were hashed. As text: inode numbers and nanoseconds do not fit a JSON number. */
export const fileIdentitySchema = z.strictObject({
  dev: z.string().regex(/^\d{1,20}$/),
  ino: z.string().regex(/^\d{1,20}$/),
  mtimeNs: z.string().regex(/^-?\d{1,20}$/),
});
export type FileIdentity = z.infer<typeof fileIdentitySchema>;

export function identityOf(status: BigIntStats): FileIdentity {
  return { dev: String(status.dev), ino: String(status.ino), mtimeNs: String(status.mtimeNs) };
}

export function sha256(bytes: Uint8Array): string {
  return `${smallDigestPrefix}${createHash("sha256").update(bytes).digest("hex")}`;
}

/** Collects the digest of a large file while its blocks come by, in order. */
export class LargeDigest {
  readonly #hash = createHash("sha256");
  readonly #crc = Buffer.alloc(4);
  readonly #map: number[] = [];
  #blocks = 0;

  /** A block of `digestBlockBytes`, or the last one. */
  add(block: Buffer, isZero: boolean): void {
    this.#crc.writeUInt32LE(isZero && block.length === digestBlockBytes ? zeroBlockCrc() : crc32(block));
    this.#hash.update(this.#crc);
    const at = Math.trunc(this.#blocks / 8);
    this.#map[at] = (this.#map[at] ?? 0) | (isZero ? 0 : 1 << (this.#blocks % 8));
    this.#blocks += 1;
  }

  end(): Pick<DigestedFile, "digest" | "dataMap"> {
    return { digest: `crc32-4m:${this.#hash.digest("hex")}`, dataMap: Buffer.from(this.#map).toString("hex") };
  }
}

export interface DigestedFile {
  readonly sizeBytes: number;
  readonly digest: string;
  /** As `dataMapSchema`; empty: unknown */
  readonly dataMap: string;
  readonly identity: FileIdentity;
}

/** Reads a large file from front to back, in slices. 0.4 ms a MiB, from the page cache. */
export async function digestLargeFile(path: string, signal?: AbortSignal): Promise<DigestedFile> {
  await using file = await openFile(path, "r");
  const before = await file.stat({ bigint: true });
  const size = Number(before.size);
  const digest = new LargeDigest();
  if (before.blocks === 0n) addZeros(digest, size);
  else {
    const pace = new Pace(signal);
    const buffers = [
      Buffer.allocUnsafeSlow(Math.min(size, digestBlockBytes)),
      Buffer.allocUnsafeSlow(Math.min(size, digestBlockBytes)),
    ] as const;
    const load = async (position: number, into: Buffer): Promise<Buffer> => {
      const block = into.subarray(0, Math.max(0, Math.min(digestBlockBytes, size - position)));
      await readFully(file, block, position);
      return block;
    };
    let next = load(0, buffers[0]);
    for (let position = 0, turn = 1; position < size; position += digestBlockBytes, turn += 1) {
      const block = await next;
      next = load(position + digestBlockBytes, turn % 2 === 0 ? buffers[0] : buffers[1]); // read ahead
      next.catch(() => undefined); // looked at in the next turn, unless this one throws
      digest.add(block, block.equals(zeroBlock().subarray(0, block.length)));
      await pace.turn();
    }
    await next;
  }
  const after = await file.stat({ bigint: true });
  if (after.mtimeNs !== before.mtimeNs || after.size !== before.size) throw new Error(`${path} changed while it was read`);
  return { sizeBytes: size, ...digest.end(), identity: identityOf(before) };
}

function addZeros(digest: LargeDigest, size: number): void {
  for (let position = 0; position < size; position += digestBlockBytes) {
    digest.add(zeroBlock().subarray(0, Math.min(digestBlockBytes, size - position)), true);
  }
}

let zeros: { readonly block: Buffer; readonly crc: number } | undefined;
function zeroBlock(): Buffer {
  const block = zeros?.block ?? Buffer.alloc(digestBlockBytes);
  zeros ??= { block, crc: crc32(block) };
  return block;
}
function zeroBlockCrc(): number {
  zeroBlock();
  return zeros?.crc ?? 0;
}

/** Digests remembered per process; beyond it the oldest are forgotten and calculated again */
const rememberedMax = 4096;

/**
 * Digests of large files, calculated once for each content.
 *
 * A file that still has the inode, the size and the modification time it had when it was hashed has the bytes it had: everything that can change it
 * through the file system changes one of the three, and hard links share all of them. So a restore finds files that were truncated, edited, swapped or
 * copied back from a backup (another inode: they are hashed), also a layer that a VMM wrote to through a descriptor it had kept, without reading
 * hundreds of MiB each time. What it cannot find is a medium that changes bytes silently: `roost inspect` reads everything.
 */
export class FileDigests {
  readonly #known = new Map<string, DigestedFile>();

  /** The digest of a file, hashed unless this process knows it. */
  async of(path: string, signal?: AbortSignal): Promise<DigestedFile> {
    const status = await stat(path, { bigint: true });
    const known = this.#known.get(keyOf(identityOf(status), status.size));
    if (known !== undefined) return { ...known, identity: identityOf(status) };
    const digested = await digestLargeFile(path, signal);
    this.remember(digested);
    return digested;
  }

  remember(file: DigestedFile): void {
    const key = keyOf(file.identity, BigInt(file.sizeBytes));
    this.#known.delete(key); // to the end of the order
    this.#known.set(key, file);
    if (this.#known.size <= rememberedMax) return;
    for (const oldest of this.#known.keys()) {
      this.#known.delete(oldest);
      return;
    }
  }

  /**
   * What is wrong with a file that should be as a manifest says; undefined: nothing. `deep`: its bytes are read whatever its identity says;
   * `readsOnce`: unless this object has read them before, and has been told nothing by `remember`.
   */
  async differs(
    path: string,
    stated: Omit<DigestedFile, "dataMap">,
    options: { readonly deep: boolean; readonly readsOnce?: boolean; readonly signal?: AbortSignal },
  ): Promise<string | undefined> {
    const status = await stat(path, { bigint: true });
    if (!status.isFile()) return "is no file";
    if (status.size !== BigInt(stated.sizeBytes)) return `has ${status.size} bytes, not ${stated.sizeBytes}`;
    const isSame = keyOf(identityOf(status), status.size) === keyOf(stated.identity, status.size);
    if (!options.deep && isSame) return undefined;
    const readsAgain = options.deep && options.readsOnce !== true;
    const actual = readsAgain ? await digestLargeFile(path, options.signal) : await this.of(path, options.signal);
    return actual.digest === stated.digest ? undefined : `has digest ${actual.digest}, not ${stated.digest}`;
  }
}

/** The device is left out: its number may change when the host starts again, and an inode number with time and size does not come twice. */
function keyOf({ ino, mtimeNs }: FileIdentity, size: bigint): string {
  return `${ino} ${mtimeNs} ${size}`;
}
