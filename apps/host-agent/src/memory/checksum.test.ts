import { createHash } from "node:crypto";
import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { crc32 } from "node:zlib";

import { MiB } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { digestLargeFile, FileDigests, hasData } from "./checksum.ts";

let folder: string;
let path: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-checksum-"));
  path = join(folder, "file");
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

/** The definition, in the simplest way. */
function definition(bytes: Buffer): string {
  const hash = createHash("sha256");
  for (let at = 0; at < bytes.length; at += 4 * MiB) {
    const crc = Buffer.alloc(4);
    crc.writeUInt32LE(crc32(bytes.subarray(at, at + 4 * MiB)));
    hash.update(crc);
  }
  return `crc32-4m:${hash.digest("hex")}`;
}

test.each([0, 1, 100, 4 * MiB - 1, 4 * MiB, 4 * MiB + 1, 12 * MiB, 13 * MiB])("the digest of %d bytes is as defined", async (size) => {
  const bytes = Buffer.alloc(size, "some text that repeats ");
  await writeFile(path, bytes);
  expect(await digestLargeFile(path)).toMatchObject({ sizeBytes: size, digest: definition(bytes) });
});

test.each([5 * MiB, 8 * MiB])("holes are zeros", async (size) => {
  const file = await open(path, "w");
  await file.truncate(size);
  expect((await digestLargeFile(path)).digest).toBe(definition(Buffer.alloc(size)));
  await file.write(Buffer.from("x"), 0, 1, size - 1);
  await file.close();
  const bytes = Buffer.alloc(size);
  bytes[size - 1] = "x".charCodeAt(0);
  expect((await digestLargeFile(path)).digest).toBe(definition(bytes));
});

test("the data map says which blocks are not zero", async () => {
  const file = await open(path, "w");
  await file.truncate(38 * MiB);
  for (const at of [0, 13 * MiB, 38 * MiB - 1]) await file.write(Buffer.from("x"), 0, 1, at);
  await file.close();
  const { dataMap } = await digestLargeFile(path);
  expect(dataMap).toBe("0902"); // blocks 0, 3 and 9
  expect(Array.from({ length: 10 }, (_, index) => hasData(dataMap, index))).toEqual(
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].map((n) => [0, 3, 9].includes(n)),
  );
  expect(hasData("", 5)).toBe(true);
});

test("a digest can be aborted", async () => {
  await writeFile(path, Buffer.alloc(8 * MiB, 1));
  await expect(digestLargeFile(path, AbortSignal.abort(new Error("enough")))).rejects.toThrow("enough");
});

test("a digest is calculated once for each content, and only so many are remembered", async () => {
  const digests = new FileDigests();
  await writeFile(path, "one");
  const first = await digests.of(path);
  digests.remember({ ...first, digest: `crc32-4m:${"0".repeat(64)}` });
  expect((await digests.of(path)).digest).toBe(`crc32-4m:${"0".repeat(64)}`); // not read again
  await rm(path);
  await writeFile(path, "two");
  expect((await digests.of(path)).digest).toBe(definition(Buffer.from("two")));
  const { identity } = first;
  for (let ino = 0; ino < 4096; ino += 1) digests.remember({ ...first, identity: { ...identity, ino: String(10_000_000_000 + ino) } });
  const forgotten = await digests.differs(path, { ...first, sizeBytes: 3, digest: definition(Buffer.from("two")) }, { deep: false });
  expect(forgotten).toBeUndefined();
});
