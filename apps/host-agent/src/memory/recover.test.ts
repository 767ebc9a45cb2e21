import { readdirSync } from "node:fs";
import { chmod, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import type { Generation, ImageFolder } from "./image-folder.ts";
import { readPointer } from "./pointer.ts";
import { seal } from "./sealed-json.ts";
import { BufferMemory } from "./testing/buffer-memory.ts";
import { commitGeneration, ImageFixture, makeLayer, memoryBytes, pagesOf, restoreMemory } from "./testing/image-fixture.ts";

let fixture: ImageFixture;
let images: ImageFolder;
let base: string;

beforeEach(async () => {
  fixture = await ImageFixture.create();
  images = fixture.folder("one");
  await images.create();
  base = await images.linkBase(await fixture.zeroMemory());
});

afterEach(async () => {
  await fixture[Symbol.asyncDispose]();
});

async function commit(value: number, layers: readonly string[] = []): Promise<Generation> {
  const memory = new BufferMemory(Buffer.alloc(memoryBytes));
  memory.fillPage(1, value);
  return commitGeneration(images, { kind: "checkpoint", memory, base, layers });
}

/** Puts other bytes under a file's name. */
async function replace(path: string, bytes: Uint8Array): Promise<void> {
  await rm(path);
  await writeFile(path, bytes);
}

const generations = () => readdirSync(images.paths.generations).sort();

/** Each byte with one bit flipped, and each length that is too short. */
function* damaged(whole: Buffer): Generator<[string, Buffer]> {
  for (let at = 0; at < whole.length; at += 1) {
    const flipped = Buffer.from(whole);
    flipped[at] = (whole[at] ?? 0) ^ (1 << (at % 8));
    yield [`byte ${at}`, flipped];
  }
  for (let length = 0; length < whole.length; length += 1) yield [`${length} bytes`, whole.subarray(0, length)];
  yield ["one more", Buffer.concat([whole, Buffer.from("\n")])];
}

test("a damaged pointer to the only generation is written anew, whatever is wrong with it", async () => {
  const generation = await commit(1);
  const whole = await readFile(images.paths.pointer);
  let round = 0;
  for (const [what, bytes] of damaged(whole)) {
    await replace(images.paths.pointer, bytes);
    await expect(images.current(), what).rejects.toMatchObject({ code: "image_damaged" });
    if (round++ % 9 !== 0) continue;
    expect(await images.recover(), what).toMatchObject({ current: 1, isPointerRebuilt: true, rolledForward: null, damaged: [] });
    expect(await images.current(), what).toEqual(generation);
  }
  await rm(images.paths.pointer);
  expect(await images.recover()).toMatchObject({ current: 1, isPointerRebuilt: false, rolledForward: "1.1" });
});

test("with several generations nobody can tell which was current: that is told, and nothing is removed or chosen", async () => {
  await commit(1, [await makeLayer(images, "layer-a.qcow2")]);
  await commit(2);
  await writeFile(images.paths.pointer, "{}");
  expect(await images.recover()).toMatchObject({
    current: null,
    isPointerRebuilt: false,
    damaged: [{ what: "current", detail: expect.stringContaining("current") }],
  });
  await expect(images.current()).rejects.toMatchObject({ code: "image_damaged" });
  expect(await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } })).toEqual({ removed: [] });
  expect(generations()).toEqual(["1.1", "2.1"]);
  await rm(images.paths.pointer);
  expect(await images.recover()).toMatchObject({ current: null, damaged: [{ what: "current" }] });

  // somebody decides; or the sandbox is paused once more
  await images.setCurrent(1);
  expect((await images.current())?.number).toBe(1);
  await writeFile(images.paths.pointer, "{}");
  expect((await commit(3)).number).toBe(3);
  expect((await images.current())?.number).toBe(3);
});

test("a damaged manifest is told, never restored, never removed; the others are as good as before", async () => {
  await commit(1);
  const second = await commit(2);
  await commit(3);
  const path = join(second.folder, "manifest.json");
  const whole = await readFile(path);
  let round = 0;
  for (const [what, bytes] of damaged(whole)) {
    if (round++ % 7 !== 0) continue;
    await replace(path, bytes);
    await expect(images.get(2), what).rejects.toMatchObject({ code: "image_damaged", detail: expect.stringContaining(path) });
    if (round % 100 !== 1) continue;
    await expect(images.setCurrent(2), what).rejects.toMatchObject({ code: "image_damaged" });
    expect(await images.recover(), what).toMatchObject({ current: 3, damaged: [{ what: "2.1" }] });
  }
  await makeLayer(images, "layer-of-whom.qcow2");
  const { removed } = await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } });
  expect(removed).toEqual([images.paths.generation(1, 1)]);
  expect(generations()).toEqual(["2.1", "3.1"]);
  expect(readdirSync(images.diskFolder)).toEqual(["layer-of-whom.qcow2"]); // perhaps the damaged one's
  await images.remove(2);
  expect(generations()).toEqual(["3.1"]);
});

test("the current generation's manifest is the one that was committed, not another whole one", async () => {
  const first = await commit(1);
  const second = await commit(2);
  await replace(join(second.folder, "manifest.json"), await readFile(join(first.folder, "manifest.json")));
  await expect(images.current()).rejects.toMatchObject({ code: "image_damaged", detail: expect.stringContaining("1.1") });
  await rm(second.folder, { recursive: true });
  await expect(images.current()).rejects.toMatchObject({ code: "image_damaged", detail: expect.stringContaining("does not exist") });
  expect(await images.recover()).toMatchObject({ current: null, damaged: [{ what: "current" }] });
});

test("where the current generation is damaged nothing is tidied up, and another one can be chosen", async () => {
  const first = await commit(1);
  const second = await commit(2);
  await replace(join(second.folder, "manifest.json"), Buffer.from("{}"));
  expect(await images.recover()).toMatchObject({ current: null, damaged: [{ what: "current" }, { what: "2.1" }] });
  expect(await images.prune({ keepCheckpoints: 0, inUse: { layers: [], bases: [] } })).toEqual({ removed: [] });
  await images.setCurrent(1);
  expect(await images.current()).toEqual(first);
  expect((await commit(3)).number).toBe(3);
});

test("a generation that nobody was told of is removed when its disk has gone on since", async () => {
  await commit(1);
  const top = await makeLayer(images, "layer-top.qcow2");
  const pointer = await readFile(images.paths.pointer);
  await commit(2, [top]);
  await replace(images.paths.pointer, pointer); // as if it had failed after the rename, and only the removal was cut off
  await chmod(images.layerPath(top), 0o600);
  await writeFile(images.layerPath(top), "the guest went on");
  expect(await images.recover()).toMatchObject({ current: 1, rolledForward: null, rolledBack: ["2.1"], damaged: [] });
  expect(generations()).toEqual(["1.1"]);
});

test("a generation that nobody was told of becomes current when it is whole", async () => {
  await commit(1);
  const pointer = await readFile(images.paths.pointer);
  const second = await commit(2, [await makeLayer(images, "layer-a.qcow2")]);
  await replace(images.paths.pointer, pointer);
  expect(await images.recover()).toMatchObject({ current: 2, rolledForward: "2.1", rolledBack: [] });
  expect(pagesOf(await restoreMemory(images, second))).toEqual({ 1: 2 });
  const state = await readPointer(images.paths);
  expect(state).toMatchObject({ kind: "present", pointer: { generation: 2, newest: 2 } });
});

test("after a rollback, newer generations are known, and stay where they are", async () => {
  await commit(1);
  await commit(2);
  await images.setCurrent(1);
  expect(await images.recover()).toMatchObject({ current: 1, rolledForward: null, damaged: [] });
  expect(generations()).toEqual(["1.1", "2.1"]);
});

test("of two revisions the higher one that can be read counts", async () => {
  const first = await commit(1);
  const layer = await makeLayer(images, "layer-a.qcow2");
  const pointer = await readFile(images.paths.pointer);
  const revised = await images.commitRevision(first, { layers: [layer] });
  expect(generations()).toEqual(["1.2"]);
  await replace(images.paths.pointer, pointer); // names 1.1, which is gone
  expect(await images.recover()).toMatchObject({ current: 1, rolledForward: "1.2", damaged: [] });
  expect(await images.current()).toEqual(revised);
});

test("what is not ours is left alone", async () => {
  await commit(1);
  await writeFile(join(images.paths.generations, "README"), "hello");
  await writeFile(join(images.paths.generations, "2.01"), "hello");
  await writeFile(join(images.diskFolder, ".hidden"), "hello");
  expect(await images.recover()).toMatchObject({ current: 1, damaged: [], removed: [] });
  expect(generations()).toEqual(["1.1", "2.01", "README"]);
});

test("a pointer with a right checksum and impossible content is damaged", async () => {
  await commit(1);
  const manifest = `sha256:${"0".repeat(64)}`;
  const write = async (content: Record<string, unknown>) => {
    await replace(images.paths.pointer, Buffer.from(seal(content)));
    return readPointer(images.paths);
  };
  const good = { formatVersion: 1, generation: 1, revision: 1, newest: 1, manifest };
  expect(await write(good)).toMatchObject({ kind: "present" });
  expect(await write({ ...good, formatVersion: 2 })).toMatchObject({ kind: "damaged" });
  expect(await write({ ...good, generation: 2 })).toMatchObject({ kind: "damaged", why: expect.stringContaining("newer") });
  expect(await write({ ...good, generation: 0 })).toMatchObject({ kind: "damaged" });
  expect(await write({ ...good, surprise: 1 })).toMatchObject({ kind: "damaged" });
  expect(await write({ ...good, manifest: "x".repeat(5000) })).toMatchObject({ kind: "damaged", why: expect.stringContaining("bytes") });
});
