import { createHash } from "node:crypto";
import { readdirSync } from "node:fs";
import { mkdir, mkdtemp, open, readFile, rm, statfs, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB, run, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { pageBytes } from "../vmm/driver.ts";
import { applyDiff, captureDiff } from "./diff-file.ts";
import { ImageFolder, type Generation } from "./image-folder.ts";
import { openProcessMemory } from "./process-memory.ts";
import { rebase } from "./rebase.ts";
import { aVm } from "./testing/image-fixture.ts";
import { MappedProcess } from "./testing/mapped-process.ts";

// Real processes in place of VMMs: their memory is captured, the process ends, another one gets it. Needs root, python3, and mounts a small file system.

const memoryMib = 16;
const memoryBytes = memoryMib * MiB;
const pages = memoryBytes / pageBytes;
let root: string;

beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "roost-generations-"));
});

afterEach(async () => {
  await rm(root, { recursive: true, force: true });
});

async function imagesIn(folder: string): Promise<{ images: ImageFolder; base: string }> {
  const images = new ImageFolder(folder, { log: silentLogger });
  await images.create();
  const zero = join(root, `zero-${memoryMib}mib.memory`);
  const file = await open(zero, "a", 0o444);
  await file.truncate(memoryBytes);
  await file.close();
  return { images, base: await images.linkBase(zero) };
}

async function capture(images: ImageFolder, child: MappedProcess, base: string): Promise<Generation> {
  const staged = await images.stage("pause");
  try {
    await writeFile(staged.deviceStatePath, "state");
    const memory = await openProcessMemory({ pid: child.pid, baseFile: images.basePath(base) });
    const diff = await captureDiff({ memory, path: staged.diffPath, baseFile: images.basePath(base) }).finally(() => memory.close());
    return await staged.commit({
      sandboxId: "isandbox",
      vm: { ...aVm, memoryMib },
      versions: {},
      memory: { base, diff: await diff.finish() },
      disk: { sizeMib: 64, base: { path: "/images/base.raw", digest: "x" }, layers: [] },
    });
  } catch (error) {
    await staged.discard();
    throw error;
  }
}

async function restore(images: ImageFolder, generation: Generation): Promise<MappedProcess> {
  await images.verify(generation, { deep: false });
  const memory = generation.manifest.memory ?? expect.fail("has memory");
  const baseFile = images.basePath(memory.base.file);
  const child = await MappedProcess.start(baseFile);
  const guest = await openProcessMemory({ pid: child.pid, baseFile });
  await applyDiff(images.filePath(generation, memory.diff.file), guest, memory.diff).finally(() => guest.close());
  return child;
}

test("twelve generations of a process that writes, zeroes and rewrites pages, with rebases between, lose nothing", async () => {
  const { images, base: zero } = await imagesIn(join(root, "sandbox"));
  let base = zero;
  let child = await MappedProcess.start(images.basePath(base));
  try {
    for (let round = 1; round <= 12; round += 1) {
      await child.writeRandom(round * 37, 50);
      await child.write(round * 37 + 10, 0, 20); // pages in the middle become zero
      await child.write((round * 1009) % pages, round); // far away
      if (round > 2) await child.write((round - 1) * 37, 0, 10); // freed since the last generation
      const content = await child.read(0, pages);
      const baseBefore = await readFile(images.basePath(base));

      let generation = await capture(images, child, base);
      await child.end();
      expect((await readFile(images.basePath(base))).equals(baseBefore)).toBe(true);
      if (round % 4 === 0) {
        const before = generation.manifest.memory?.diff.pages ?? 0;
        generation = await rebase(images, generation.number);
        expect(before).toBeGreaterThan(0);
        expect(generation.manifest.memory?.diff.pages).toBe(0);
      }
      await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } });
      await images.verify(generation, { deep: true });
      base = generation.manifest.memory?.base.file ?? "";
      expect(readdirSync(images.paths.memory)).toEqual([base]);
      child = await restore(images, generation);
      expect(await child.read(0, pages), `round ${round}`).toBe(content);
    }
  } finally {
    await child.end();
  }
});

test("one generation, many processes: each has the memory, none sees the other's writes", async () => {
  const { images, base } = await imagesIn(join(root, "sandbox"));
  await using parent = await MappedProcess.start(images.basePath(base));
  await parent.writeRandom(10, 600);
  const content = await parent.read(0, pages);
  const generation = await capture(images, parent, base);
  const children: MappedProcess[] = [];
  try {
    for (let index = 0; index < 4; index += 1) {
      const child = await restore(images, generation);
      children.push(child);
      expect(await child.read(0, pages)).toBe(content);
      await child.write(5, index + 1);
    }
    for (const [index, child] of children.entries()) {
      expect(await child.read(5)).toBe(
        createHash("sha256")
          .update(Buffer.alloc(pageBytes, index + 1))
          .digest("hex"),
      );
    }
    expect(await parent.read(0, pages)).toBe(content);
  } finally {
    for (const child of children) await child.end();
  }
});

test("a capture of a large change reads every page once and holds up nothing else for long", async () => {
  const { images, base } = await imagesIn(join(root, "sandbox"));
  await using child = await MappedProcess.start(images.basePath(base));
  await child.writeRandom(0, pages);
  let turns = 0;
  const counter = setInterval(() => (turns += 1), 0);
  const generation = await capture(images, child, base).finally(() => clearInterval(counter));
  expect(generation.manifest.memory?.diff).toMatchObject({ pages, zeroPages: 0 });
  expect(turns).toBeGreaterThan(3);
});

test("a full disk refuses a capture, a commit and a rebase; what was there stays whole, and nothing is left", async (context) => {
  const mount = join(root, "small");
  await mkdir(mount);
  // not a tmpfs: there the holes of a mapped file take space when they are read
  await run(["truncate", "-s", "9M", join(root, "disk")]);
  await run(["mkfs.ext4", "-q", "-b", "4096", "-m", "0", "-O", "^has_journal", join(root, "disk")]);
  const refusal = await run(["mount", "-o", "loop", join(root, "disk"), mount]).catch((error: Error) => error);
  if (refusal instanceof Error) context.skip(`this host mounts no file systems from files: ${refusal.message}`);
  try {
    const images = new ImageFolder(join(mount, "sandbox"), { log: silentLogger });
    await images.create();
    const zero = join(mount, "zero.memory");
    const file = await open(zero, "w", 0o444);
    await file.truncate(memoryBytes);
    await file.chmod(0o444);
    await file.close();
    const base = await images.linkBase(zero);
    await using child = await MappedProcess.start(images.basePath(base));
    await child.writeRandom(0, 512); // 2 MiB
    const first = await capture(images, child, base);
    const before = await listAll(mount);

    // some 6 MiB are left: the pages do not fit
    await child.writeRandom(512, 2000);
    await expect(capture(images, child, base)).rejects.toMatchObject({ code: "host_disk_full" });
    expect(await listAll(mount)).toEqual(before);

    const filler = join(mount, "filler");
    expect(await statfs(mount)).toMatchObject({ bsize: pageBytes });
    await fillDisk(filler);
    await expect(rebase(images, first.number)).rejects.toMatchObject({ code: "host_disk_full" });
    await rm(filler);
    expect(await listAll(mount)).toEqual(before);

    // the manifest does not fit, then the pointer does not
    for (const freePages of [0, 1]) {
      const staged = await images.stage("pause");
      await writeFile(staged.deviceStatePath, "state");
      await fillDisk(filler, freePages * pageBytes);
      await expect(
        staged.commit({
          sandboxId: "isandbox",
          vm: { ...aVm, memoryMib },
          versions: {},
          memory: null,
          disk: { sizeMib: 64, base: { path: "/images/base.raw", digest: "x" }, layers: [] },
        }),
        `${freePages} pages left`,
      ).rejects.toMatchObject({ code: "host_disk_full" });
      await rm(filler);
      expect(await listAll(mount)).toEqual(before);
    }
    expect(await images.current()).toEqual(first);
    await images.verify(first, { deep: true });
    expect(await images.recover()).toMatchObject({ current: 1, damaged: [], removed: [] });
  } finally {
    await run(["umount", mount]);
  }
});

/** Writes a file until no more than `leave` bytes are free. */
async function fillDisk(path: string, leave: number = 0): Promise<void> {
  const file = await open(path, "w");
  const page = Buffer.alloc(pageBytes, 1);
  let size = 0;
  try {
    for (;;) {
      await file.write(page);
      size += pageBytes;
    }
  } catch (error) {
    expect(error).toMatchObject({ code: "ENOSPC" });
  }
  await file.truncate(Math.max(0, size - leave));
  await file.close();
}

async function listAll(folder: string): Promise<string[]> {
  return readdirSync(folder, { recursive: true, encoding: "utf8" }).sort();
}
