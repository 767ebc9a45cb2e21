import { mkdir, readdir, rename } from "node:fs/promises";
import { join } from "node:path";

import { noTemplateDefaults } from "@roost/contract";
import { must, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import type { Generation, ImageFolder } from "../memory/image-folder.ts";
import { commitGeneration, ImageFixture, makeLayer } from "../memory/testing/image-fixture.ts";
import { TemplateStore, type Template, type TemplateRecord } from "./template-store.ts";

let fixture: ImageFixture;
let store: TemplateStore;
beforeEach(async () => {
  fixture = await ImageFixture.create();
  store = await open();
});
afterEach(async () => fixture[Symbol.asyncDispose]());

/** The store as the next host agent finds it. */
async function open(): Promise<TemplateStore> {
  const opened = new TemplateStore(join(fixture.root, "templates"), { log: silentLogger });
  await opened.recover();
  return opened;
}

function recordOf(name: string, timeCreatedMs: number): TemplateRecord {
  return {
    formatVersion: 1,
    name,
    kind: "snapshot",
    timeCreatedMs,
    sourceSandboxId: "i1",
    diskSizeMib: 64,
    sizes: null,
    guestToken: null,
    defaults: noTemplateDefaults,
  };
}

async function fill(images: ImageFolder): Promise<Generation> {
  return commitGeneration(images, { memory: null, base: "", layers: [await makeLayer(images, "l1.qcow2")] });
}

const folders = async () => (await readdir(store.root)).sort();
const path = (folder: string) => join(store.root, folder);
const timeOf = (opened: TemplateStore, name: string) => opened.get(name)?.record.timeCreatedMs;
const present = (name: string): Template => must(store.get(name), "a template of the name");

test("a name with a tag is a folder without a ':', and is found again", async () => {
  await store.create(recordOf("x", 1), fill);
  await store.create(recordOf("x:v1", 2), fill);
  expect(await folders()).toEqual(["x", "x@v1"]);
  const next = await open();
  expect(next.list().map(({ record }) => record.name)).toEqual(["x", "x:v1"]);
  expect(await next.remove("x:v1")).toBe(true);
  expect(await folders()).toEqual(["x"]);
});

test("a template is replaced in a folder of its own, again and again", async () => {
  await store.create(recordOf("x", 1), fill);
  for (const time of [2, 3]) {
    expect((await store.replace(present("x"), recordOf("x", time), fill))?.record.timeCreatedMs).toBe(time);
    expect(await folders()).toEqual([expect.stringMatching(/^x~[0-9a-f]{8}$/)]);
  }
  expect(timeOf(await open(), "x")).toBe(3);
  expect(await store.remove("x")).toBe(true);
  expect(await folders()).toEqual([]);
});

test("of two that replace the same one, one does; nothing is put in the place of what was removed", async () => {
  await store.create(recordOf("x", 1), fill);
  const old = present("x");
  const replaced = await Promise.all([store.replace(old, recordOf("x", 2), fill), store.replace(old, recordOf("x", 3), fill)]);
  expect(replaced.filter((template) => template === undefined)).toHaveLength(1);
  const now = present("x");
  await store.remove("x");
  expect(await store.replace(now, recordOf("x", 4), fill)).toBeUndefined();
  expect(await folders()).toEqual([]);
});

test("a replacement that fails leaves what was there", async () => {
  await store.create(recordOf("x", 1), fill);
  const failing = store.replace(present("x"), recordOf("x", 2), async () => Promise.reject(new Error("no room")));
  await expect(failing).rejects.toThrow("no room");
  expect(await folders()).toEqual(["x"]);
  expect(timeOf(await open(), "x")).toBe(1);
});

test("what a crash cut off between the two renames is undone, and after them finished", async () => {
  for (const [name, time] of [
    ["undone", 1],
    ["done", 2],
  ] as const) {
    await store.create(recordOf(name, time), fill);
  }
  await store.replace(present("done"), recordOf("done", 3), fill);
  await store.create(recordOf("twice", 4), fill);
  const twice = must(await store.replace(present("twice"), recordOf("twice", 5), fill), "the replacement");
  const successor = must(twice.images.folder.split("/").at(-1), "its folder");
  await rename(path("undone"), path(".old-undone"));
  await mkdir(path(".old-done"));
  await rename(path(successor), path(`.old-${successor}`));
  await mkdir(path(".new-0"));
  await mkdir(path(".trash-0"));
  const next = await open();
  expect([timeOf(next, "undone"), timeOf(next, "done"), timeOf(next, "twice")]).toEqual([1, 3, 5]);
  expect((await folders()).filter((name) => name.startsWith("."))).toEqual([]);
});
