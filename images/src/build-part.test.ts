import { mkdtemp, readdir, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { afterEach, beforeEach, expect, test } from "vitest";

import { buildPart } from "./build-part.ts";
import { ImageCache } from "./image-cache.ts";
import type { BuildContext, Part } from "./part.ts";

let cache: ImageCache;
let builds: number;
beforeEach(async () => {
  cache = new ImageCache(await mkdtemp(join(tmpdir(), "roost-images-")));
  await cache.create();
  builds = 0;
});
afterEach(() => rm(cache.folder, { recursive: true, force: true }));

function part(inputs: Record<string, unknown>, content: string, build?: (context: BuildContext) => Promise<void>): Part {
  return {
    name: "thing",
    spaceBytes: 0,
    inputs: () => Promise.resolve(inputs),
    build: async (context) => {
      builds += 1;
      await writeFile(join(context.outputFolder, "file"), content);
      await build?.(context);
      return { main: "file", version: "1" };
    },
  };
}

const make = (wanted: Part, options: { refresh?: boolean; signal?: AbortSignal } = {}) =>
  buildPart(wanted, {
    cache,
    onProgress: () => {},
    refresh: options.refresh ?? false,
    signal: options.signal ?? new AbortController().signal,
  });

const partFolders = async () => (await readdir(cache.folder)).filter((name) => name !== "inputs");

test("the same inputs build once", async () => {
  const first = await make(part({ a: 1 }, "content"));
  const second = await make(part({ a: 1 }, "content"));
  expect(second).toEqual(first);
  expect(builds).toBe(1);
  expect(await readFile(join(cache.folder, first.path), "utf8")).toBe("content");
  expect(first.path).toMatch(/^thing-[0-9a-f]{16}\/file$/);
  expect(first.digest.slice(7, 23)).toBe(first.folder.slice("thing-".length));
});

test("other inputs build again, and the older result stays", async () => {
  const first = await make(part({ a: 1 }, "one"));
  const second = await make(part({ a: 2 }, "two"));
  expect(second.folder).not.toBe(first.folder);
  expect((await partFolders()).sort()).toEqual([first.folder, second.folder].sort());
});

test("other inputs with the same result share it", async () => {
  const first = await make(part({ a: 1 }, "same"));
  const second = await make(part({ a: 2 }, "same"));
  expect(builds).toBe(2);
  expect(second.folder).toBe(first.folder);
  expect(await partFolders()).toEqual([first.folder]);
});

test("refresh builds again", async () => {
  await make(part({ a: 1 }, "old"));
  const second = await make(part({ a: 1 }, "new"), { refresh: true });
  expect(await readFile(join(cache.folder, second.path), "utf8")).toBe("new");
  expect(await make(part({ a: 1 }, "unused"))).toEqual(second);
});

test("a part whose folder was removed is built again", async () => {
  const first = await make(part({ a: 1 }, "content"));
  await rm(join(cache.folder, first.folder), { recursive: true });
  expect(await make(part({ a: 1 }, "content"))).toEqual(first);
  expect(builds).toBe(2);
});

test.each(["", "{", "[]", '{"folder":"../../etc","path":"../../etc/passwd","digest":"sha256:0"}'])(
  "a damaged memo (%s) builds again",
  async (memo) => {
    await make(part({ a: 1 }, "content"));
    const [name = ""] = await readdir(join(cache.folder, "inputs"));
    await writeFile(join(cache.folder, "inputs", name), memo);
    await make(part({ a: 1 }, "content"));
    expect(builds).toBe(2);
  },
);

test("a build that fails leaves nothing", async () => {
  const failing = part({ a: 1 }, "half", async ({ scratchFolder }) => {
    await writeFile(join(scratchFolder, "half"), "made");
    throw new Error("no network");
  });
  await expect(make(failing)).rejects.toThrow("no network");
  expect(await partFolders()).toEqual([]);
  expect(await readdir(join(cache.folder, "inputs"))).toEqual([]);
});

test("a build that is aborted at its end publishes nothing", async () => {
  const abort = new AbortController();
  const aborted = part({ a: 1 }, "whole", async () => abort.abort(new Error("stopped")));
  await expect(make(aborted, { signal: abort.signal })).rejects.toThrow("stopped");
  expect(await partFolders()).toEqual([]);
});
