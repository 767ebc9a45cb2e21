import { createHash } from "node:crypto";
import { open } from "node:fs/promises";

import { run } from "@roost/kit";
import { z } from "zod";

import { stepTimeoutMs } from "./contained-run.ts";
import type { Digest } from "./digest.ts";

/** Unit in `bytes` in which a sparse file is looked at; file systems place holes as they like, so smaller ones must not matter. */
const blockBytes = 65_536;

const zeros = Buffer.alloc(blockBytes);

const extentsSchema = z.array(z.object({ start: z.int(), length: z.int(), data: z.boolean() }));

/**
 * Digest of a sparse file: SHA-256 over its length and then, for each 64 KiB block that has a byte other than zero, the block's number
 * and content (numbers as 8 bytes, little endian). It depends on the content alone, not on where the file system has holes, and unlike
 * a plain digest it does not read 10 GiB of zeros.
 */
export async function digestOfSparseFile(path: string, signal?: AbortSignal): Promise<Digest> {
  const options = { timeoutMs: stepTimeoutMs, ...(signal === undefined ? {} : { signal }) };
  const map = extentsSchema.parse(JSON.parse(await run(["qemu-img", "map", "--output=json", "-f", "raw", path], options)));
  const hash = createHash("sha256");
  const number = (value: number) => {
    const bytes = Buffer.alloc(8);
    bytes.writeBigUInt64LE(BigInt(value));
    return bytes;
  };
  const file = await open(path, "r");
  try {
    hash.update(number((await file.stat()).size));
    let next = 0;
    for (const extent of map) {
      if (!extent.data) continue;
      for (
        let index = Math.max(next, Math.floor(extent.start / blockBytes));
        index * blockBytes < extent.start + extent.length;
        index += 1
      ) {
        signal?.throwIfAborted();
        next = index + 1;
        const block = Buffer.alloc(blockBytes);
        const { bytesRead } = await file.read(block, 0, blockBytes, index * blockBytes);
        if (!block.equals(zeros)) hash.update(number(index)).update(block.subarray(0, bytesRead));
      }
    }
  } finally {
    await file.close();
  }
  return `sha256:${hash.digest("hex")}`;
}
