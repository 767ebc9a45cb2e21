import { chmod, mkdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import type { ImageFolder } from "./image-folder.ts";
import { inspectImage, resolveImageTarget } from "./inspect.ts";
import { BufferMemory } from "./testing/buffer-memory.ts";
import { commitGeneration, ImageFixture, makeLayer, memoryBytes, zeroBase } from "./testing/image-fixture.ts";

let fixture: ImageFixture;
let images: ImageFolder;

beforeEach(async () => {
  fixture = await ImageFixture.create();
  images = fixture.folder("sandboxes/isandboxa");
  await images.create();
  await images.linkBase(await fixture.zeroMemory());
  for (const [index, layer] of ["layer-a.qcow2", "layer-b.qcow2"].entries()) {
    await makeLayer(images, layer);
    const memory = new BufferMemory(Buffer.alloc(memoryBytes));
    memory.fillPage(7, index + 1);
    await commitGeneration(images, {
      kind: "checkpoint",
      memory,
      base: zeroBase,
      layers: ["layer-a.qcow2", layer].slice(index === 0 ? 1 : 0),
    });
  }
});

afterEach(async () => {
  await fixture[Symbol.asyncDispose]();
});

const inspect = async (generation: number | null = null) => inspectImage(images.folder, { generation });

test("it says what there is, what it takes, who shares it, and that it is whole", async () => {
  await images.linkInto(fixture.folder("templates/trained"), 2, { kind: "snapshot", sandboxId: null });
  const report = await inspect();
  expect(report).toMatchObject({
    folder: images.folder,
    current: { generation: 2, revision: 1, newest: 2 },
    damage: [],
    isVerified: true,
    generations: [
      { generation: 1, isCurrent: false, damage: [] },
      {
        generation: 2,
        isCurrent: true,
        damage: [],
        manifest: { kind: "checkpoint", memory: { diff: { pages: 1, zeroPages: 0, runs: 1 } } },
        files: {
          base: { path: images.basePath(zeroBase), sizeBytes: memoryBytes, allocatedBytes: 0, links: 3 },
          diff: { sizeBytes: 8208, links: 2 },
          deviceState: { sizeBytes: 17 },
          layers: [{ path: images.layerPath("layer-a.qcow2") }, { path: images.layerPath("layer-b.qcow2"), links: 2 }],
        },
      },
    ],
  });
  expect(report.generations[1]?.files.manifest?.sizeBytes).toBe((await stat(join(images.paths.generation(2, 1), "manifest.json"))).size);
  expect((await inspect(1)).generations).toHaveLength(1);
});

test("every kind of damage is told, each with its file", async () => {
  const flip = async (path: string, at: number) => {
    const bytes = await readFile(path);
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    await chmod(path, 0o600);
    await writeFile(path, bytes);
  };
  const damage = async (generation: number) => {
    const report = await inspect(generation);
    expect(report.isVerified).toBe(false);
    return report.generations.flatMap((each) => each.damage).concat(report.damage);
  };
  const second = images.paths.generation(2, 1);
  await flip(join(second, "memory.diff"), 5000); // data: only a deep look reads it
  expect(await damage(2)).toEqual([expect.stringContaining("memory.diff: pages 7+1")]);
  await flip(join(second, "device.state"), 3);
  await flip(images.layerPath("layer-b.qcow2"), 3);
  await rm(images.basePath(zeroBase));
  expect(await damage(2)).toEqual([
    expect.stringContaining("layer-b.qcow2: has digest"),
    expect.stringContaining(`${zeroBase}: does not exist`),
    expect.stringContaining("memory.diff"),
    expect.stringContaining("device.state: has digest"),
  ]);
  await flip(join(second, "manifest.json"), 300);
  expect(await damage(2)).toEqual([expect.stringContaining("manifest.json: says its checksum is")]);
  await flip(images.paths.pointer, 100);
  expect(await damage(1)).toContainEqual(expect.stringContaining("current: says its checksum is"));
  await rm(images.paths.pointer);
  expect(await damage(1)).toContainEqual(expect.stringContaining("does not exist, but generations do"));
});

test("a generation that is not there is told, with those that are", async () => {
  await expect(inspect(7)).rejects.toMatchObject({ code: "generation_not_found", message: "there is no generation 7; there is 1, 2" });
  const empty = fixture.folder("sandboxes/iempty");
  await empty.create();
  expect(await inspectImage(empty.folder, { generation: null })).toMatchObject({ current: null, generations: [], isVerified: true });
});

test("targets are ids, beginnings of ids, names of templates, and paths", async () => {
  const context = { stateDir: fixture.root, cwd: join(fixture.root, "sandboxes") };
  await fixture.folder("templates/trained").create();
  const other = fixture.folder("sandboxes/isandboxb");
  await other.create();
  const { folder } = images;
  const resolved = async (target: string) => resolveImageTarget(target, context);
  expect(await resolved("isandboxa")).toEqual({ folder, generation: null });
  expect(await resolved("isandboxa:2")).toEqual({ folder, generation: 2 });
  expect(await resolved("isandboxb:12")).toEqual({ folder: other.folder, generation: 12 });
  expect(await resolved("trained:1")).toEqual({ folder: join(fixture.root, "templates/trained"), generation: 1 });
  expect(await resolved(folder)).toEqual({ folder, generation: null });
  expect(await resolved("./isandboxa/:2")).toEqual({ folder, generation: 2 });
  expect(await resolved(images.paths.generation(2, 1))).toEqual({ folder, generation: 2 });
  await expect(resolved("isandbox")).rejects.toMatchObject({
    code: "request_invalid",
    message: expect.stringContaining("isandboxa, isandboxb"),
  });
  await expect(resolved("nobody")).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(resolved("..")).rejects.toMatchObject({ code: "sandbox_not_found" });
  await expect(resolved(`${images.paths.generation(2, 1)}:1`)).rejects.toMatchObject({ code: "request_invalid" });
  await mkdir(join(fixture.root, "sandboxes/inothing"));
  await expect(resolved("inothing")).rejects.toMatchObject({
    code: "sandbox_not_found",
    message: expect.stringContaining("nothing that was saved"),
  });
});
