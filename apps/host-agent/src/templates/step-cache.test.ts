import { readdir, rm, utimes } from "node:fs/promises";
import { join } from "node:path";

import { noTemplateDefaults } from "@roost/contract";
import { Deferred, poll, silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { commitGeneration, ImageFixture, makeLayer } from "../memory/testing/image-fixture.ts";
import { StepCache, type StepCacheParts } from "./step-cache.ts";
import { recordFile, TemplateStore } from "./template-store.ts";

let fixture: ImageFixture;
let store: TemplateStore;
let removed: string[];
const caches: StepCache[] = [];

beforeEach(async () => {
  fixture = await ImageFixture.create();
  store = await openStore();
  removed = [];
});
afterEach(async () => {
  for (const cache of caches.splice(0)) cache.close();
  await fixture[Symbol.asyncDispose]();
});

async function openStore(): Promise<TemplateStore> {
  const opened = new TemplateStore(join(fixture.root, "templates"), { log: silentLogger });
  await opened.recover();
  return opened;
}

function aCache(limits: Partial<Pick<StepCacheParts, "bytesMax" | "countMax" | "freshMs">>): StepCache {
  const cache = new StepCache({ store, bytesMax: 1e9, freshMs: 0, onRemoved: (name) => removed.push(name), log: silentLogger, ...limits });
  caches.push(cache);
  return cache;
}

/** A layer whose name is 10 characters long has 1,100 bytes. */
const layer = (index: number) => `l${String(index).padStart(3, "0")}.qcow2`;
const layerBytes = 1_100;

const now = Date.now();

/** A step with these layers, used last so many `s` ago. */
async function addStep(cache: StepCache, name: string, layers: readonly number[], secondsAgo: number): Promise<void> {
  const template = await store.create(
    {
      formatVersion: 1,
      name,
      kind: "step",
      timeCreatedMs: 1,
      sourceSandboxId: "i1",
      diskSizeMib: 64,
      sizes: null,
      guestToken: null,
      defaults: noTemplateDefaults,
    },
    async (images) => {
      for (const index of layers) await makeLayer(images, layer(index));
      return commitGeneration(images, { memory: null, base: "", layers: layers.map(layer) });
    },
  );
  await age(name, secondsAgo);
  await cache.learn(template);
}

async function age(name: string, secondsAgo: number): Promise<void> {
  const time = new Date(now - 1_000 * secondsAgo);
  await utimes(join(store.root, name, recordFile), time, time);
}

const names = () => store.list().map(({ record }) => record.name);
const until = async (expected: readonly string[]) =>
  poll({ what: `the steps ${expected.join()}`, timeoutMs: 30_000, intervalMs: 2 }, () =>
    names().join() === expected.join() ? true : undefined,
  );
const untilRemoved = async (expected: readonly string[]) =>
  poll({ what: `the end of ${expected.join()}`, timeoutMs: 30_000, intervalMs: 2 }, () =>
    removed.join() === expected.join() ? true : undefined,
  );

test("above the limit of bytes the steps that were used least recently go; a layer counts once however many have it", async () => {
  const cache = aCache({ bytesMax: 4 * layerBytes });
  await addStep(cache, "a", [1], 500);
  await addStep(cache, "b", [1, 2], 400);
  await addStep(cache, "c", [1, 2, 3], 300);
  await addStep(cache, "d", [4], 200);
  expect(removed).toEqual([]);
  await addStep(cache, "e", [5], 100);
  await until(["d", "e"]); // nothing is freed before the last that has the shared layers goes
  await untilRemoved(["a", "b", "c"]);
  expect((await readdir(store.root)).sort()).toEqual(["d", "e"]);
});

test("who begins from a step uses those below it: the steps of another build go, the deepest first", async () => {
  const cache = aCache({ countMax: 5 });
  for (const [index, name] of ["a1", "a2", "a3"].entries()) await addStep(cache, name, [1, 2, 3].slice(0, index + 1), 900);
  for (const [index, name] of ["b1", "b2"].entries()) await addStep(cache, name, [11, 12].slice(0, index + 1), 500);
  await cache.use("a3", async () => undefined);
  await addStep(cache, "c1", [21], -300);
  await until(["a1", "a2", "a3", "b1", "c1"]);
  await untilRemoved(["b2"]);
  await cache.use("b1", async () => undefined);
  await addStep(cache, "c2", [21, 22], -300);
  await until(["a1", "a2", "b1", "c1", "c2"]);
  await untilRemoved(["b2", "a3"]);
  // It is remembered over a restart
  store = await openStore();
  const next = aCache({ countMax: 3 });
  for (const template of store.list()) await next.learn(template);
  await until(["b1", "c1", "c2"]);
});

test("a step that a start reads stays until it has been read", async () => {
  const cache = aCache({ countMax: 1 });
  await addStep(cache, "a", [1], 500);
  const read = new Deferred<void>();
  const using = cache.use("a", () => read.promise);
  await addStep(cache, "b", [2], -300);
  // The second goes after everything was done that the first led to
  for (const name of ["c", "d"]) {
    await addStep(cache, name, [3], 600);
    await until(["a", "b"]);
  }
  await untilRemoved(["c", "d"]);
  read.resolve();
  await using;
  await until(["b"]);
});

test("what was made just now stays although there is no room, for a while", async () => {
  const cache = aCache({ bytesMax: 0, freshMs: 400 });
  await addStep(cache, "a", [1], 0);
  expect(await cache.use("a", async () => names())).toEqual(["a"]);
  await until([]);
});

test("a step that is damaged is removed", async () => {
  const cache = aCache({});
  await addStep(cache, "a", [1], 0);
  await rm(join(store.root, "a", "current"));
  await rm(join(store.root, "a", "generations"), { recursive: true });
  store = await openStore();
  const next = aCache({});
  for (const template of store.list()) await next.learn(template);
  expect(names()).toEqual([]);
});
