import { randomBytes } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, open, readFile, rm, stat, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB } from "@roost/kit";
import fc from "fast-check";
import { afterEach, beforeEach, expect, test } from "vitest";

import { pageBytes, type GuestMemory } from "../vmm/driver.ts";
import { applyDiff, captureDiff, writeEmptyDiff } from "./diff-file.ts";
import { DiffReader } from "./diff-reader.ts";
import { BufferMemory } from "./testing/buffer-memory.ts";

let folder: string;
let path: string;
let baseFile: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-diff-"));
  path = join(folder, "memory.diff");
  baseFile = join(folder, "base.memory");
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

async function useBase(bytes: Buffer): Promise<BufferMemory> {
  await writeFile(baseFile, bytes);
  return new BufferMemory(bytes);
}

async function capture(memory: GuestMemory) {
  return (await captureDiff({ memory, path, baseFile })).finish();
}

test("a diff over its base is the memory again, and says how many pages it holds", async () => {
  const base = randomBytes(2 * MiB);
  base.fill(0, 100 * pageBytes, 200 * pageBytes); // a hole
  const memory = await useBase(base);
  memory.fillPage(3, 7);
  memory.fillPage(4, 8);
  memory.fillPage(5, 0); // became zero
  memory.fillPage(150, 0); // was zero: nothing to say
  memory.fillPage(151, 9);
  memory.fillPage(511, 1);
  const info = await capture(memory);
  expect(info).toMatchObject({ runs: 4, pages: 4, zeroPages: 1 });
  expect((await stat(path)).size).toBe(info.sizeBytes);
  expect((await stat(path)).mode & 0o777).toBe(0o400);

  const restored = new BufferMemory(base);
  await applyDiff(path, restored, info);
  expect(restored.bytes.equals(memory.bytes)).toBe(true);
});

test("over a base of nothing but holes no zero page is recorded", async () => {
  const file = await open(baseFile, "w");
  await file.truncate(4 * MiB);
  await file.close();
  const memory = new BufferMemory(Buffer.alloc(4 * MiB));
  for (let page = 0; page < 1024; page += 1) memory.fillPage(page, page % 5 === 0 ? 1 : 0);
  const info = await capture(memory);
  expect(info).toMatchObject({ pages: 205, zeroPages: 0, runs: 205 });
});

test("any memory over any base comes back", async () => {
  const page = fc.constantFrom(0, 0, 1, 2);
  const pages = 64;
  await fc.assert(
    fc.asyncProperty(
      fc.array(page, { minLength: pages, maxLength: pages }),
      fc.array(fc.tuple(fc.nat(pages - 1), page), { maxLength: 80 }),
      async (content, writes) => {
        await rm(path, { force: true });
        const base = Buffer.concat(content.map((value) => Buffer.alloc(pageBytes, value)));
        const memory = await useBase(base);
        for (const [at, value] of writes) memory.fillPage(at, value);
        const info = await capture(memory);
        const restored = new BufferMemory(base);
        await applyDiff(path, restored, info);
        expect(restored.bytes.equals(memory.bytes)).toBe(true);
      },
    ),
    { numRuns: 60 },
  );
});

test("more than the windows and chunks hold: runs are split, nothing is lost", async () => {
  const base = Buffer.alloc(24 * MiB, 1);
  const memory = await useBase(base);
  memory.write(10, randomBytes(14 * MiB)); // longer than a run and than the chunks of the writer
  memory.write(4000, Buffer.alloc(5 * MiB)); // zeros, longer than a run
  for (let page = 5500; page < 6144; page += 2) memory.fillPage(page, page % 3);
  const info = await capture(memory);
  const restored = new BufferMemory(base);
  await applyDiff(path, restored, info);
  expect(restored.bytes.equals(memory.bytes)).toBe(true);
});

test("an empty diff is one page", async () => {
  const info = await writeEmptyDiff(path, MiB);
  expect(info).toMatchObject({ sizeBytes: pageBytes, runs: 0, pages: 0, zeroPages: 0 });
  const memory = new BufferMemory(Buffer.alloc(MiB, 5));
  await applyDiff(path, memory, info);
  expect(memory.bytes.every((byte) => byte === 5)).toBe(true);
  await rm(path);
  expect(await capture(await useBase(Buffer.alloc(MiB)))).toEqual(info);
});

test("a capture that fails leaves nothing", async () => {
  const memory = await useBase(Buffer.alloc(MiB, 1));
  memory.fillPage(0, 3);
  const broken: GuestMemory = {
    sizeBytes: MiB,
    changedPages: async () => [{ firstPage: 0, pageCount: 200 }],
    read: () => {
      throw new Error("the VMM has ended");
    },
    write: () => undefined,
    close: () => undefined,
  };
  await expect(captureDiff({ memory: broken, path, baseFile })).rejects.toThrow("the VMM has ended");
  expect(existsSync(path)).toBe(false);

  const discarded = await captureDiff({ memory, path, baseFile });
  await discarded.discard();
  await discarded.discard();
  expect(existsSync(path)).toBe(false);

  memory.fillPage(1, 0);
  const captured = await captureDiff({ memory, path, baseFile });
  await rm(baseFile);
  await expect(captured.finish()).rejects.toThrow("ENOENT");
  expect(existsSync(path)).toBe(false);
});

test("a diff of another memory size, and another diff than the committed one, are refused", async () => {
  const memory = await useBase(Buffer.alloc(MiB, 1));
  memory.fillPage(0, 3);
  const info = await capture(memory);
  const larger = new BufferMemory(Buffer.alloc(2 * MiB));
  await expect(applyDiff(path, larger)).rejects.toMatchObject({ code: "image_damaged" });
  const other = { ...info, digest: info.digest.replace(/.$/, (last) => (last === "0" ? "1" : "0")) };
  await expect(applyDiff(path, new BufferMemory(memory.bytes), other)).rejects.toMatchObject({ code: "image_damaged" });
  await expect(applyDiff(join(folder, "none"), memory)).rejects.toMatchObject({ code: "image_damaged" });
});

test("truncations and flipped bits are found before anything wrong is written", async () => {
  const memory = await useBase(Buffer.alloc(16 * pageBytes, 1));
  memory.fillPage(2, 7);
  memory.fillPage(3, 0);
  memory.fillPage(9, 8);
  const info = await capture(memory);
  const whole = await readFile(path);
  const damaged = join(folder, "damaged.diff");
  const untouched = Buffer.alloc(pageBytes, 1);
  const read = async () => {
    const target = new BufferMemory(Buffer.alloc(16 * pageBytes, 1));
    await applyDiff(damaged, target).finally(() => {
      // what was written so far is right
      for (let page = 0; page < 16; page += 1) {
        const content = target.bytes.subarray(page * pageBytes, (page + 1) * pageBytes);
        if (!content.equals(untouched) && !content.equals(memory.bytes.subarray(page * pageBytes, (page + 1) * pageBytes))) {
          throw new Error(`page ${page} was written with something wrong`);
        }
      }
    });
  };
  await writeFile(damaged, whole);
  await read();

  const file = await open(damaged, "r+");
  const table = whole.length - 3 * 16;
  for (let at = 0; at < whole.length; at += at < 80 || at >= table ? 1 : 11) {
    const flipped = Buffer.from([(whole[at] ?? 0) ^ (1 << (at % 8))]);
    await file.write(flipped, 0, 1, at);
    await expect(read(), `byte ${at}`).rejects.toMatchObject({ code: "image_damaged" });
    await file.write(whole, at, 1, at);
  }
  await file.close();
  await read();
  await writeFile(damaged, Buffer.concat([whole, Buffer.alloc(1)]));
  await expect(read()).rejects.toMatchObject({ code: "image_damaged" });
  for (let length = whole.length - 1; length >= 0; length -= length > 80 && length < table ? 97 : 1) {
    await truncate(damaged, length);
    await expect(read(), `${length} bytes`).rejects.toMatchObject({ code: "image_damaged" });
  }
  expect(info.sizeBytes).toBe(whole.length);
});

test("random bytes are no diff", async () => {
  await fc.assert(
    fc.asyncProperty(fc.uint8Array({ maxLength: 9000 }), fc.boolean(), async (bytes, hasMagic) => {
      await rm(path, { force: true });
      await writeFile(path, hasMagic ? Buffer.concat([Buffer.from("ROOSTDIF"), bytes]) : bytes);
      await expect(DiffReader.open(path, { memoryBytes: MiB })).rejects.toMatchObject({ code: "image_damaged" });
    }),
    { numRuns: 100 },
  );
});
