import { readdirSync } from "node:fs";
import { chmod, link, readFile, rename, rm, stat, truncate, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import type { Generation, ImageFolder } from "./image-folder.ts";
import { needsRebase, rebase } from "./rebase.ts";
import { BufferMemory } from "./testing/buffer-memory.ts";
import { aVm, commitGeneration, ImageFixture, makeLayer, memoryBytes, pagesOf, restoreMemory, zeroBase } from "./testing/image-fixture.ts";

let fixture: ImageFixture;
let images: ImageFolder;
let base: string;
const nothingInUse = { layers: [], bases: [] };

beforeEach(async () => {
  fixture = await ImageFixture.create();
  images = fixture.folder("one");
  await images.create();
  base = await images.linkBase(await fixture.zeroMemory());
});

afterEach(async () => {
  await fixture[Symbol.asyncDispose]();
});

function memoryWith(pages: Record<number, number>): BufferMemory {
  const memory = new BufferMemory(Buffer.alloc(memoryBytes));
  for (const [page, value] of Object.entries(pages)) memory.fillPage(Number(page), value);
  return memory;
}

async function commit(
  pages: Record<number, number>,
  layers: readonly string[],
  kind: "pause" | "checkpoint" = "pause",
): Promise<Generation> {
  return commitGeneration(images, { kind, memory: memoryWith(pages), base, layers });
}

const list = (folder: string) => readdirSync(folder).sort();

test("a folder without generations has no current one", async () => {
  expect(await images.current()).toBeNull();
  expect(await images.list()).toEqual([]);
  await expect(images.get(1)).rejects.toMatchObject({ code: "generation_not_found" });
  expect(await images.recover()).toMatchObject({ current: null, damaged: [], removed: [] });
});

test("a committed generation is current, whole, and says what it is", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  const committed = await commit({ 3: 7, 200: 9 }, [layer]);
  const current = await images.current();
  expect(current).toEqual(committed);
  expect(current?.manifest).toMatchObject({
    generation: 1,
    revision: 1,
    kind: "pause",
    sandboxId: "isandbox",
    vm: aVm,
    memory: { base: { file: zeroBase, sizeBytes: memoryBytes }, diff: { pages: 2, zeroPages: 0 } },
    disk: { layers: [{ file: layer }] },
  });
  await images.verify(committed, { deep: true });
  expect(pagesOf(await restoreMemory(images, committed))).toEqual({ 3: 7, 200: 9 });
  expect(list(images.folder)).toEqual(["current", "disk", "generations", "memory"]);
  expect(list(images.paths.generations)).toEqual(["1.1"]);
  for (const file of list(committed.folder)) expect((await stat(join(committed.folder, file))).mode & 0o777).toBe(0o400);
});

test("a generation may be the disk alone", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  const committed = await commitGeneration(images, { memory: null, base, layers: [layer] });
  expect(committed.manifest.memory).toBeNull();
  await images.verify(committed, { deep: true });
  expect(list(committed.folder)).toEqual(["manifest.json"]);
});

test("a discarded generation leaves nothing, and numbers go on", async () => {
  const staged = await images.stage("pause");
  await writeFile(staged.deviceStatePath, "x");
  await staged.discard();
  await staged.discard();
  expect(list(images.paths.generations)).toEqual([]);
  expect((await commit({ 1: 1 }, [])).number).toBe(2);
});

test("a layer that can still be written cannot be committed, and nothing changes", async () => {
  const before = await commit({ 1: 1 }, [await makeLayer(images, "layer-a.qcow2")]);
  await writeFile(images.layerPath("layer-b.qcow2"), "top");
  await expect(commit({ 1: 2 }, ["layer-a.qcow2", "layer-b.qcow2"])).rejects.toThrow("frozen");
  expect(await images.current()).toEqual(before);
  expect(list(images.paths.generations)).toEqual(["1.1"]);
});

test("rolling back makes an older generation current; its number is not used again", async () => {
  await commit({ 1: 1 }, [], "checkpoint");
  await commit({ 1: 2 }, [], "checkpoint");
  await images.setCurrent(1);
  expect((await images.current())?.number).toBe(1);
  const next = await commit({ 1: 3 }, []);
  expect(next.number).toBe(3);
  await images.setCurrent(2);
  await images.remove(3);
  await images.remove(3);
  const reopened = fixture.folder("one");
  expect((await reopened.stage("pause")).number).toBe(4);
  await expect(reopened.setCurrent(3)).rejects.toMatchObject({ code: "generation_not_found" });
  await expect(reopened.remove(2)).rejects.toThrow("current");
});

test("pruning keeps the current generation, the newest checkpoints, and what is in use", async () => {
  const layers: string[] = [];
  for (const [index, kind] of (["checkpoint", "pause", "checkpoint", "checkpoint", "pause"] as const).entries()) {
    layers.push(await makeLayer(images, `layer-${index}.qcow2`));
    await commit({ [index]: 1 }, [layers[index] ?? ""], kind);
  }
  await makeLayer(images, "layer-top.qcow2");
  await makeLayer(images, "layer-left.qcow2");
  await writeFile(join(images.diskFolder, "notes.txt"), "not a layer");
  const { removed } = await images.prune({ keepCheckpoints: 1, inUse: { layers: ["layer-top.qcow2"], bases: [] } });
  expect(removed).toHaveLength(7);
  expect(list(images.paths.generations)).toEqual(["4.1", "5.1"]);
  expect(list(images.diskFolder)).toEqual(["layer-3.qcow2", "layer-4.qcow2", "layer-top.qcow2", "notes.txt"]);
  expect(list(images.paths.memory)).toEqual([zeroBase]);
  expect(await images.prune({ keepCheckpoints: 1, inUse: { layers: ["layer-top.qcow2"], bases: [] } })).toEqual({ removed: [] });
});

test("nothing is taken for unused while a generation is being made", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  const staged = await images.stage("pause");
  await images.prune({ keepCheckpoints: 0, inUse: nothingInUse });
  expect(list(images.diskFolder)).toEqual([layer]);
  expect(list(images.paths.memory)).toEqual([zeroBase]);
  await staged.discard();
  await images.prune({ keepCheckpoints: 0, inUse: nothingInUse });
  expect(list(images.diskFolder)).toEqual([]);
  expect(list(images.paths.memory)).toEqual([]);
});

test("linked into another folder, a generation is whole there, also when the first one is gone", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  await commit({ 1: 1 }, []);
  const source = await commit({ 5: 6 }, [layer], "checkpoint");
  const target = fixture.folder("two");
  const linked = await images.linkInto(target, 2, { kind: "snapshot", sandboxId: null });
  expect(linked).toMatchObject({ number: 1, revision: 1, manifest: { kind: "snapshot", sandboxId: null } });
  expect(linked.manifest.disk).toEqual(source.manifest.disk);
  expect((await stat(target.layerPath(layer))).nlink).toBe(2);
  await rm(images.folder, { recursive: true });
  await target.verify(linked, { deep: true });
  expect(pagesOf(await restoreMemory(target, linked))).toEqual({ 5: 6 });
  await expect(target.linkInto(target, 9, { kind: "fork", sandboxId: "i1" })).rejects.toMatchObject({ code: "generation_not_found" });
});

test("a base file whose name is taken by another file gets another name", async () => {
  const path = await fixture.zeroMemory();
  expect(await images.linkBase(path)).toBe(zeroBase);
  await rm(path);
  const other = await images.linkBase(await fixture.zeroMemory());
  expect(other).toMatch(/^zero-1mib-[0-9a-f]{4}\.memory$/);
});

test("a rebase has the same memory, an empty diff, zeros as holes, and a later diff is small again", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  const first = await commit({ 1: 1, 2: 2, 3: 3, 100: 4 }, [layer]);
  expect(needsRebase(first, { diffBytes: 16_384 })).toBe(false);
  expect(needsRebase(first, { diffBytes: 16_383 })).toBe(true);
  const rebased = await rebase(images, 1);
  expect(rebased).toMatchObject({
    number: 1,
    revision: 2,
    manifest: { memory: { diff: { pages: 0, zeroPages: 0, runs: 0 } }, kind: "pause" },
  });
  expect(rebased.manifest.timeCreatedMs).toBe(first.manifest.timeCreatedMs);
  expect(await images.current()).toEqual(rebased);
  expect(list(images.paths.generations)).toEqual(["1.2"]);
  await images.verify(rebased, { deep: true });
  expect(pagesOf(await restoreMemory(images, rebased))).toEqual({ 1: 1, 2: 2, 3: 3, 100: 4 });
  const file = rebased.manifest.memory?.base.file ?? "";
  const status = await stat(images.basePath(file));
  expect([status.size, status.blocks * 512, status.mode & 0o777]).toEqual([memoryBytes, 16_384, 0o444]);

  // the next diff is over the new base; a page becomes zero, another is written
  const memory = new BufferMemory(await readFile(images.basePath(file)));
  memory.fillPage(2, 0);
  memory.fillPage(7, 9);
  const next = await commitGeneration(images, { memory, base: file, layers: [layer] });
  expect(next.manifest.memory?.diff).toMatchObject({ pages: 1, zeroPages: 1 });
  const again = await rebase(images, 2);
  expect(pagesOf(await restoreMemory(images, again))).toEqual({ 1: 1, 3: 3, 7: 9, 100: 4 });
  expect((await stat(images.basePath(again.manifest.memory?.base.file ?? ""))).blocks * 512).toBe(16_384);

  // the base file that a VM still runs on stays until it is no longer in use
  await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [file] } });
  expect(list(images.paths.memory)).toEqual([file, again.manifest.memory?.base.file].sort());
  await images.prune({ keepCheckpoints: 0, inUse: nothingInUse });
  expect(list(images.paths.memory)).toEqual([again.manifest.memory?.base.file]);
});

test("a rebase that is aborted, or finds damage, changes nothing", async () => {
  const before = await commit({ 1: 1, 2: 2 }, []);
  await expect(rebase(images, 1, { signal: AbortSignal.abort(new Error("enough")) })).rejects.toThrow("enough");
  const diff = images.filePath(before, "memory.diff");
  const bytes = await readFile(diff);
  bytes[5000] = (bytes[5000] ?? 0) ^ 1;
  await rm(diff);
  await writeFile(diff, bytes);
  await expect(rebase(images, 1)).rejects.toMatchObject({ code: "image_damaged" });
  expect(await images.current()).toEqual(before);
  expect(list(images.paths.memory)).toEqual([zeroBase]);
  expect(list(images.paths.generations)).toEqual(["1.1"]);
});

test("a rebase of a generation that is not current leaves the current one current", async () => {
  await commit({ 1: 1 }, [], "checkpoint");
  await commit({ 1: 2 }, []);
  const rebased = await rebase(images, 1);
  expect(rebased.revision).toBe(2);
  expect((await images.current())?.number).toBe(2);
  expect((await images.get(1)).revision).toBe(2);
});

test("layers can be replaced by one that holds the same; a revision of an older state is refused", async () => {
  const layers = [await makeLayer(images, "layer-a.qcow2"), await makeLayer(images, "layer-b.qcow2")];
  const before = await commit({ 1: 1 }, layers);
  const merged = await makeLayer(images, "layer-merged.qcow2");
  const revised = await images.commitRevision(before, { layers: [merged] });
  expect(revised.manifest.disk.layers.map((layer) => layer.file)).toEqual([merged]);
  expect(pagesOf(await restoreMemory(images, revised))).toEqual({ 1: 1 });
  await images.prune({ keepCheckpoints: 0, inUse: nothingInUse });
  expect(list(images.diskFolder)).toEqual([merged]);
  await expect(images.commitRevision(before, { layers: [merged] })).rejects.toThrow("meanwhile");
});

test("files that changed since the commit are found before a restore, deeply also when nothing shows it", async () => {
  const layer = await makeLayer(images, "layer-a.qcow2");
  const generation = await commit({ 1: 1 }, [layer]);
  const path = images.layerPath(layer);
  const damagedBy = async (what: string) => {
    await expect(images.verify(generation, { deep: false })).rejects.toMatchObject({
      code: "image_damaged",
      detail: expect.stringContaining(what),
    });
  };
  const original = await readFile(path);

  await chmod(path, 0o644);
  await truncate(path, 10);
  await damagedBy("10 bytes");
  await writeFile(path, Buffer.alloc(original.length, 1));
  await damagedBy("digest");
  await writeFile(path, original); // as from a backup: another time, the same bytes
  await images.verify(generation, { deep: false });
  await rename(path, `${path}.away`);
  await damagedBy("does not exist");
  await rename(`${path}.away`, path);
  await images.verify(generation, { deep: false });

  // bytes that change without a trace are what the deep look is for
  const other = await commit({ 2: 2 }, [await makeLayer(images, "layer-b.qcow2")]);
  const otherPath = images.layerPath("layer-b.qcow2");
  await run(["touch", "-r", otherPath, join(fixture.root, "times")]);
  await chmod(otherPath, 0o644);
  await writeFile(otherPath, Buffer.alloc((await stat(otherPath)).size, 2));
  await run(["touch", "-r", join(fixture.root, "times"), otherPath]);
  await images.verify(other, { deep: false });
  await expect(images.verify(other, { deep: true })).rejects.toMatchObject({
    code: "image_damaged",
    detail: expect.stringContaining("layer-b"),
  });
});

test("device state and diff are checked each time", async () => {
  const generation = await commit({ 1: 1 }, []);
  const state = images.filePath(generation, "device.state");
  const { mtime, size } = await stat(state);
  await chmod(state, 0o600);
  await writeFile(state, "x".repeat(size));
  await utimes(state, mtime, mtime);
  await expect(images.verify(generation, { deep: false })).rejects.toMatchObject({
    code: "image_damaged",
    detail: expect.stringContaining("device.state"),
  });
  const other = await commit({ 2: 2 }, []);
  await rm(images.filePath(other, "memory.diff"));
  await link(images.filePath(generation, "memory.diff"), images.filePath(other, "memory.diff"));
  await expect(images.verify(other, { deep: false })).rejects.toMatchObject({ detail: expect.stringContaining("memory.diff") });
});
