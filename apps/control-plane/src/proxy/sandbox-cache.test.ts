import { Deferred } from "@roost/kit";
import { beforeEach, expect, test } from "vitest";

import type { SandboxRow } from "../db/sandboxes.ts";
import { SandboxCache } from "./sandbox-cache.ts";

let reads: Deferred<SandboxRow | undefined>[];
let cache: SandboxCache;
beforeEach(() => {
  reads = [];
  cache = new SandboxCache(async () => {
    const read = new Deferred<SandboxRow | undefined>();
    reads.push(read);
    return read.promise;
  });
});
const row = (state: string) => ({ id: "a", state }) as SandboxRow;

test("one reading serves all who ask while it is under way, and shortly after", async () => {
  const asked = [cache.recent("a"), cache.recent("a")];
  reads[0]?.resolve(row("running"));
  expect(await Promise.all([...asked, cache.recent("a")])).toEqual([row("running"), row("running"), row("running")]);
  expect(reads).toHaveLength(1);
});

test("what was being read when the record changed is not taken for what it is afterwards", async () => {
  const before = cache.recent("a");
  cache.forget("a");
  const after = cache.recent("a");
  reads[0]?.resolve(row("running"));
  reads[1]?.resolve(row("stopped"));
  expect(await before).toEqual(row("running"));
  expect(await after).toEqual(row("stopped"));
  expect(await cache.recent("a")).toEqual(row("stopped"));
  expect(reads).toHaveLength(2);
});

test("a fresh reading is one that began after it was asked for", async () => {
  const recent = cache.recent("a");
  const fresh = cache.fresh("a");
  reads[1]?.resolve(row("paused"));
  expect(await fresh).toEqual(row("paused"));
  reads[0]?.resolve(row("running"));
  expect(await recent).toEqual(row("running"));
  expect(await cache.recent("a")).toEqual(row("paused"));
});

test("nothing and failures are not kept", async () => {
  const none = cache.recent("a");
  reads[0]?.resolve(undefined);
  expect(await none).toBeUndefined();
  const failed = cache.recent("a");
  reads[1]?.reject(new Error("no database"));
  await expect(failed).rejects.toThrow("no database");
  const found = cache.recent("a");
  reads[2]?.resolve(row("running"));
  expect(await found).toEqual(row("running"));
});

test("it is bounded", async () => {
  for (let index = 0; index < 3_000; index += 1) {
    const reading = cache.recent(`id${index}`);
    reads[index]?.resolve(row("running"));
    await reading;
  }
  void cache.recent("id0");
  expect(reads).toHaveLength(3_001);
  await cache.recent("id2999");
  expect(reads).toHaveLength(3_001);
});
