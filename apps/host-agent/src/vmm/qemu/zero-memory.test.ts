import { link, mkdtemp, readdir, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { ensureZeroMemory } from "./zero-memory.ts";

let scratch: string;
beforeEach(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-zero-"));
});
afterEach(() => rm(scratch, { recursive: true, force: true }));

test("starts at once all link the same file", async () => {
  for (let memoryMib = 1; memoryMib <= 20; memoryMib += 1) {
    const inodes = await Promise.all(
      Array.from({ length: 6 }, async (_, index) => {
        const name = join(scratch, `${memoryMib}-${index}`);
        await link(await ensureZeroMemory(join(scratch, "memory"), memoryMib), name);
        return (await stat(name)).ino;
      }),
    );
    expect(new Set(inodes).size).toBe(1);
  }
  expect(await readdir(join(scratch, "memory"))).toHaveLength(20);
});

test("it is read by all, has its size and takes no room; one that was cut short is made anew", async () => {
  const path = await ensureZeroMemory(scratch, 64);
  const status = await stat(path);
  expect(status.mode & 0o777).toBe(0o444);
  expect(status).toMatchObject({ size: 64 * MiB, blocks: 0 });
  await rm(path);
  await writeFile(path, "");
  await truncate(path, 1 * MiB);
  expect((await stat(await ensureZeroMemory(scratch, 64))).size).toBe(64 * MiB);
});
