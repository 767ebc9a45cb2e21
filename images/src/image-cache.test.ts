import { link, mkdir, mkdtemp, readdir, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { ImageSet } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { ImageCache, imagePaths } from "./image-cache.ts";

const digest = `sha256:${"0".repeat(64)}`;
const images: ImageSet = {
  formatVersion: 1,
  kernel: { path: "kernel-1/vmlinux", digest, version: "6.1" },
  initramfs: { path: "initramfs-1/initramfs.cpio", digest },
  agentDisk: { path: "agent-disk-1/agent.squashfs", digest, agentVersion: "0.1.0" },
  templates: { base: { path: "base-1/root.ext4", digest, diskSizeMib: 10_240 } },
};

let cache: ImageCache;
beforeEach(async () => {
  cache = new ImageCache(await mkdtemp(join(tmpdir(), "roost-images-")));
  await cache.create();
});
afterEach(() => rm(cache.folder, { recursive: true, force: true }));

async function addPart(name: string, memo?: string): Promise<void> {
  await mkdir(join(cache.folder, name));
  await writeFile(join(cache.folder, name, "file"), name);
  if (memo === undefined) return;
  await cache.rememberPart(memo, digest, { folder: name, path: `${name}/file`, digest });
}

test("images are read as they were written, and not written again when they are the same", async () => {
  expect(await cache.readImageSet()).toBeUndefined();
  await cache.writeImageSet(images);
  expect(await cache.readImageSet()).toEqual(images);
  const { ino } = await stat(join(cache.folder, "images.json"));
  await cache.writeImageSet(images);
  expect((await stat(join(cache.folder, "images.json"))).ino).toBe(ino);
});

test.each(["", "{", '{"formatVersion":2}', '{"formatVersion":1}'])("an images.json that is not ours (%s) counts as none", async (text) => {
  await writeFile(join(cache.folder, "images.json"), text);
  expect(await cache.readImageSet()).toBeUndefined();
});

test("prune keeps what images.json and the caller name, and forgets the rest", async () => {
  for (const path of imagePaths(images)) await addPart(path.split("/")[0] ?? "");
  await addPart("base-old", "base");
  await addPart("base-in-use");
  await cache.writeImageSet(images);
  expect(await cache.prune(["base-in-use/root.ext4"])).toEqual(["base-old"]);
  expect((await readdir(cache.folder)).sort()).toEqual(
    ["agent-disk-1", "base-1", "base-in-use", "images.json", "initramfs-1", "inputs", "kernel-1"].sort(),
  );
  expect(await cache.findPart("base", digest)).toBeUndefined();
  expect(await readdir(join(cache.folder, "inputs"))).toEqual([]);
});

test("prune removes everything when there are no current images", async () => {
  await addPart("base-old", "base");
  expect(await cache.prune([])).toEqual(["base-old"]);
});

test("prune leaves what a host agent holds by a hard link", async () => {
  await addPart("base-held", "base");
  const holder = await mkdtemp(join(tmpdir(), "roost-held-"));
  await link(join(cache.folder, "base-held", "file"), join(holder, "file"));
  expect(await cache.prune([])).toEqual([]);
  await rm(holder, { recursive: true });
  expect(await cache.prune([])).toEqual(["base-held"]);
});

test("the sweep removes half-made folders only", async () => {
  await addPart("base-1", "base");
  const temporary = await cache.createTemporaryFolder("base");
  await writeFile(join(temporary, "half"), "");
  await cache.sweepTemporaryFolders();
  expect((await readdir(cache.folder)).sort()).toEqual(["base-1", "inputs"]);
});

test("publishing what is already there keeps the one that is there", async () => {
  await addPart("base-1");
  const { ino } = await stat(join(cache.folder, "base-1"));
  const temporary = await cache.createTemporaryFolder("base");
  await cache.publish(temporary, "base-1");
  expect((await stat(join(cache.folder, "base-1"))).ino).toBe(ino);
});
