import { mkdtemp, open, rm, stat } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { digestOfSparseFile } from "./sparse-digest.ts";

let folder: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-sparse-"));
});
afterEach(() => rm(folder, { recursive: true, force: true }));

/** A 64 MiB file with these bytes at these offsets. */
async function sparseFile(name: string, writes: readonly (readonly [number, Buffer])[], size = 64 << 20): Promise<string> {
  const path = join(folder, name);
  const file = await open(path, "w");
  await file.truncate(size);
  for (const [offset, bytes] of writes) await file.write(bytes, 0, bytes.length, offset);
  await file.close();
  return path;
}

const one = Buffer.from("one");

test("zeros that take space and holes are the same", async () => {
  const holes = await sparseFile("holes", [[1 << 20, one]]);
  const zeros = await sparseFile("zeros", [
    [0, Buffer.alloc(1 << 20)],
    [1 << 20, one],
    [10 << 20, Buffer.alloc(123_456)],
  ]);
  expect((await stat(zeros)).blocks).toBeGreaterThan((await stat(holes)).blocks);
  expect(await digestOfSparseFile(zeros)).toBe(await digestOfSparseFile(holes));
});

test("a copy without any hole has the same digest", async () => {
  const holes = await sparseFile("holes", [
    [65_535, one],
    [(64 << 20) - 3, one],
  ]);
  await run(["cp", "--sparse=never", holes, join(folder, "full")]);
  expect(await digestOfSparseFile(join(folder, "full"))).toBe(await digestOfSparseFile(holes));
});

test("content, place and length each count", async () => {
  const digests = [
    await digestOfSparseFile(await sparseFile("a", [[1 << 20, one]])),
    await digestOfSparseFile(await sparseFile("b", [[2 << 20, one]])),
    await digestOfSparseFile(await sparseFile("c", [[1 << 20, Buffer.from("two")]])),
    await digestOfSparseFile(await sparseFile("d", [[1 << 20, one]], 65 << 20)),
    await digestOfSparseFile(await sparseFile("e", [])),
  ];
  expect(new Set(digests).size).toBe(digests.length);
});

test("a file whose end is in the middle of a block is read to its end", async () => {
  const short = await sparseFile("short", [[0, one]], 1_000);
  const other = await sparseFile("other", [[997, one]], 1_000);
  expect(await digestOfSparseFile(short)).not.toBe(await digestOfSparseFile(other));
});
