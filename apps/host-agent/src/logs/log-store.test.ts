import { mkdtemp, readdir, rm, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import type { LogEntry } from "@roost/contract";
import { silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { LogStore } from "./log-store.ts";

let root: string;
let living: Set<string> | undefined;
beforeEach(async () => {
  root = await mkdtemp(join(tmpdir(), "roost-logs-"));
  living = new Set();
});
afterEach(async () => rm(root, { recursive: true, force: true }));

const hourMs = 3_600_000;
const nowMs = Date.now();
const entry = (timeMs: number, message = "x".repeat(300)): LogEntry => ({ timeMs, level: "info", message, fields: {} });
const all = { limit: 1_000, direction: "forward" } as const;
const storeOf = (totalBytesMax = 1_000_000) =>
  new LogStore({
    root,
    retentionMs: hourMs,
    totalBytesMax,
    living: () => living,
    limits: { segmentBytesMax: 1_000, segmentsMax: 4 },
    log: silentLogger,
  });

/** A log whose last entry was written so long ago. */
async function written(store: LogStore, id: string, agoMs: number, entries = 1): Promise<void> {
  await store.of(id).append(Array.from({ length: entries }, () => entry(nowMs - agoMs)));
  const at = new Date(nowMs - agoMs);
  for (const name of await readdir(join(root, id))) await utimes(join(root, id, name), at, at);
}

test("a log is kept as long as its sandbox, and for its time after that", async () => {
  const store = storeOf();
  await written(store, "old", 2 * hourMs);
  await written(store, "recent", hourMs / 2);
  await written(store, "present", 2 * hourMs);
  living = new Set(["present"]);
  await store.sweep(nowMs);
  expect((await readdir(root)).sort()).toEqual(["present", "recent"]);
  expect(await store.query("old", all)).toBeUndefined();
  expect(await store.query("recent", all)).toHaveLength(1);
});

test("as long as nobody knows which sandboxes there are, nothing is removed", async () => {
  const store = storeOf();
  await written(store, "old", 2 * hourMs);
  living = undefined;
  await store.sweep(nowMs);
  expect(await readdir(root)).toEqual(["old"]);
});

test("too much altogether: of sandboxes that are gone the oldest go first, then the oldest parts of the others", async () => {
  const store = storeOf(3_000);
  await written(store, "gone1", 3_000, 2);
  await written(store, "gone2", 2_000, 2);
  await written(store, "here1", 1_000, 8);
  living = new Set(["here1"]);
  await store.sweep(nowMs);
  expect(await readdir(root)).toEqual(["here1"]);
  await written(store, "here2", 0, 8);
  living = new Set(["here1", "here2"]);
  await store.sweep(nowMs);
  const left = (await store.of("here1").bytes()) + (await store.of("here2").bytes());
  expect(left).toBeLessThanOrEqual(3_000);
  for (const id of living) expect(await store.query(id, all), id).not.toHaveLength(0);
});

test("after a sweep the log of a sandbox that is gone can be written and read", async () => {
  const store = storeOf();
  await written(store, "gone", 0);
  await store.sweep(nowMs);
  store.tell({
    id: "1",
    timeMs: nowMs,
    kind: "sandbox.vm_lost",
    sandboxId: "gone",
    template: undefined,
    message: "it\nwent",
    detail: { a: "b" },
  });
  await store.close();
  expect((await store.query("gone", all))?.at(-1)).toEqual({
    timeMs: nowMs + 1, // an instant that was in a file already may be full
    level: "error",
    message: "it went",
    fields: { logger: "platform", event_type: "sandbox.vm_lost", a: "b" },
  });
});
