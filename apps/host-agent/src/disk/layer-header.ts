import { constants } from "node:fs";
import { open } from "node:fs/promises";

import { PlatformError } from "@roost/contract";
import { MiB } from "@roost/kit";

/** Largest header read in `bytes`: one cluster, which QEMU keeps header and extensions in. */
const headerBytesMax = 64 * 1024;
const magic = 0x51_46_49_fb;
const clusterBits = 16;
const refcountOrder = 4;
/** Header extensions of qcow2 that only describe */
const extensionEnd = 0;
const extensionFeatureNames = 0x68_03_f8_57;
const extensionBackingFormat = 0xe2_79_2a_ca;

/**
 * Checks that a file is a layer as `createLayer` makes them: it names no other file (backing file, data file), needs no feature that
 * ours do not have, and has the size of its disk. To be asked before a layer that a VMM has written is opened by anybody but that VMM; those who
 * open it nevertheless say format and what is below explicitly.
 *
 * Rejects with `image_damaged`.
 */
export async function validateLayer(path: string, options: { readonly sizeMib?: number } = {}): Promise<void> {
  const trouble = await whatIsWrong(path, options.sizeMib).catch((error: unknown) => `cannot be read (${String(error)})`);
  if (trouble !== undefined) {
    throw new PlatformError("image_damaged", "a layer of the sandbox's disk is damaged", { detail: `${path}: ${trouble}` });
  }
}

async function whatIsWrong(path: string, sizeMib: number | undefined): Promise<string | undefined> {
  await using handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  const status = await handle.stat();
  if (!status.isFile()) return "not a file";
  const { buffer, bytesRead } = await handle.read(Buffer.alloc(headerBytesMax), 0, headerBytesMax, 0);
  return headerTrouble(buffer.subarray(0, bytesRead), sizeMib);
}

/** What keeps these first bytes of a file from being the header of a layer; undefined: nothing. See docs/interop/qcow2.txt of QEMU. */
export function headerTrouble(header: Buffer, sizeMib: number | undefined): string | undefined {
  if (header.length < 104 || header.readUInt32BE(0) !== magic) return "not qcow2";
  if (header.readUInt32BE(4) !== 3) return `qcow2 version ${header.readUInt32BE(4)}`;
  if (header.readUInt32BE(16) !== 0) return "it names a backing file";
  if (header.readUInt32BE(20) !== clusterBits) return `clusters of 2^${header.readUInt32BE(20)} bytes`;
  const sizeBytes = header.readBigUInt64BE(24);
  if (sizeMib !== undefined && sizeBytes !== BigInt(sizeMib) * BigInt(MiB)) return `a disk of ${sizeBytes} bytes, not of ${sizeMib} MiB`;
  if (header.readUInt32BE(32) !== 0) return "it is encrypted";
  if (header.readUInt32BE(60) !== 0) return "it has internal snapshots";
  const features = {
    incompatible: header.readBigUInt64BE(72),
    compatible: header.readBigUInt64BE(80),
    autoclear: header.readBigUInt64BE(88),
  };
  for (const [kind, bits] of Object.entries(features)) if (bits !== 0n) return `${kind} features ${bits.toString(2)}`;
  if (header.readUInt32BE(96) !== refcountOrder) return `reference counts of 2^${header.readUInt32BE(96)} bits`;
  const length = header.readUInt32BE(100);
  if (length < 104 || length > 112 || length % 8 !== 0) return `a header of ${length} bytes`;
  return extensionTrouble(header, length);
}

function extensionTrouble(header: Buffer, first: number): string | undefined {
  for (let offset = first; ;) {
    if (offset + 8 > header.length) return "header extensions without end";
    const type = header.readUInt32BE(offset);
    const length = header.readUInt32BE(offset + 4);
    if (type === extensionEnd) return undefined;
    if (type !== extensionFeatureNames && type !== extensionBackingFormat) return `header extension ${type.toString(16)}`;
    offset += 8 + Math.ceil(length / 8) * 8;
  }
}
