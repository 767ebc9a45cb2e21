import { mkdtemp, readdir, readFile, rm, stat, utimes } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";
import { text } from "node:stream/consumers";

import { silentLogger } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { BuildFiles } from "./build-files.ts";
import { newTemplateId } from "./names.ts";

let folder: string;
let now: Date;
const hash = "ab".repeat(32);
const template = newTemplateId();

beforeEach(async () => {
  folder = join(await mkdtemp(join(tmpdir(), "roost-build-files-")), "build-files");
  now = new Date("2026-01-02T03:04:05Z");
});
afterEach(async () => rm(join(folder, ".."), { recursive: true }));

const open = (bytesMax = 1000) => new BuildFiles({ folder, bytesMax, log: silentLogger, now: () => now });
const put = async (files: BuildFiles, data: string, length = data.length, to = hash) =>
  files.put(template, to, Readable.from([Buffer.from(data)]), length, new AbortController().signal);
async function names(): Promise<string[]> {
  return (await readdir(join(folder, template)).catch(() => [])).sort();
}

test("an archive is there when it was put, as a whole, also for the next process", async () => {
  const files = open();
  expect(await files.has(template, hash)).toBe(false);
  expect(await files.open(template, hash)).toBeUndefined();
  await put(files, "first");
  await put(files, "second");
  const opened = await open().open(template, hash);
  expect(opened?.sizeBytes).toBe(6);
  expect(opened && (await text(opened.stream))).toBe("second");
  expect(await names()).toEqual([hash]);
  expect((await stat(join(folder, template, hash))).mode & 0o777).toBe(0o600);
});

test.each([
  ["more than was said", "12345", 4],
  ["less than was said", "12345", 6],
])("%s leaves nothing, and what was there before", async (_name, data, length) => {
  const files = open();
  await put(files, "before");
  await expect(put(files, data, length)).rejects.toMatchObject({ code: "request_invalid" });
  expect(await names()).toEqual([hash]);
  expect(await readFile(join(folder, template, hash), "utf8")).toBe("before");
});

test("an upload that breaks off leaves nothing", async () => {
  const files = open();
  const abort = new AbortController();
  const stuck = new Readable({ read: () => undefined });
  stuck.push("12");
  const putting = files.put(template, hash, stuck, 5, abort.signal);
  abort.abort();
  await expect(putting).rejects.toThrow(/abort/);
  for (let count = 0; count < 50; count += 1) {
    const early = new AbortController();
    early.abort();
    await expect(files.put(template, hash, new Readable({ read: () => undefined }), 5, early.signal)).rejects.toThrow(/abort/);
  }
  const failing = Readable.from(
    (async function* () {
      yield Buffer.from("12");
      throw new Error("cut");
    })(),
  );
  await expect(files.put(template, hash, failing, 5, new AbortController().signal)).rejects.toThrow("cut");
  expect(await names()).toEqual([]);
  await put(files, "x".repeat(500)); // nothing is held for them either
  await put(files, "x".repeat(500), 500, "cd".repeat(32));
});

test("all archives together have a limit, also those that are on their way, and each has half of it", async () => {
  const files = open(1000);
  await expect(put(files, "x".repeat(501))).rejects.toMatchObject({ code: "request_too_large" });
  const settled = await Promise.allSettled([
    put(files, "x".repeat(400)),
    put(files, "y".repeat(400), 400, "cd".repeat(32)),
    put(files, "z".repeat(400), 400, "ef".repeat(32)),
  ]);
  expect(settled.filter(({ status }) => status === "fulfilled").length).toBeLessThanOrEqual(2);
  for (const outcome of settled) if (outcome.status === "rejected") expect(outcome.reason).toMatchObject({ code: "host_disk_full" });
  await rm(join(folder, template), { recursive: true });
  await put(files, "x".repeat(500));
});

test("an archive of unknown length is taken whole, within the same limits", async () => {
  const files = open(1000);
  const putAny = async (size: number, to = hash) =>
    files.put(template, to, Readable.from([Buffer.alloc(size - 1), Buffer.from("!")]), undefined, new AbortController().signal);
  await expect(putAny(501)).rejects.toMatchObject({ code: "request_too_large" });
  expect(await names()).toEqual([]);
  await putAny(500);
  await put(files, "x".repeat(100), 100, "cd".repeat(32)); // what the refused one had asked for is free again
  await expect(putAny(401, "ef".repeat(32))).rejects.toMatchObject({ code: "host_disk_full" });
  expect((await stat(join(folder, template, hash))).size).toBe(500);
  expect(await names()).toEqual([hash, "cd".repeat(32)]);
});

test("names that are no hash or no template's reach nothing", async () => {
  const files = open();
  for (const bad of ["", "..", "../secret", "AB".repeat(32), "ab".repeat(31)]) {
    await expect(files.has(template, bad)).rejects.toMatchObject({ code: "request_invalid" });
    await expect(files.open(template, bad)).rejects.toMatchObject({ code: "request_invalid" });
    await expect(put(files, "x", 1, bad)).rejects.toMatchObject({ code: "request_invalid" });
  }
  await expect(files.has("..", hash)).rejects.toMatchObject({ code: "request_invalid" });
});

test("a token is good for one archive, for a day, and after a restart", async () => {
  const token = await open().uploadToken(template, hash);
  const files = open();
  expect(await files.checkToken(template, hash, token)).toBe(true);
  expect(await files.checkToken(template, "cd".repeat(32), token)).toBe(false);
  expect(await files.checkToken(newTemplateId(), hash, token)).toBe(false);
  const [expires = "", signature = ""] = token.split(".");
  for (const bad of ["", "x", `${Number(expires) + 1}.${signature}`, `${expires}.${"0".repeat(64)}`]) {
    expect(await files.checkToken(template, hash, bad)).toBe(false);
  }
  now = new Date(now.getTime() + 24 * 3600_000 + 1000);
  expect(await files.checkToken(template, hash, token)).toBe(false);
  expect((await stat(join(folder, "secret"))).mode & 0o777).toBe(0o600);
});

test("what nobody has used is removed, and everything of templates that are gone", async () => {
  const files = open();
  const old = new Date(now.getTime() - 1000);
  const [used, unused] = ["11".repeat(32), "22".repeat(32)];
  await put(files, "x", 1, used);
  await put(files, "x", 1, unused);
  for (const name of [used, unused]) await utimes(join(folder, template, name), old, old);
  await files.has(template, used);
  await files.uploadToken(template, used);
  await files.removeUnused(now, async () => new Set([template]));
  expect(await names()).toEqual([used]);
  await files.removeUnused(old, async () => new Set());
  expect(await readdir(folder)).toEqual(["secret"]);
  await new BuildFiles({ folder: join(folder, "none"), bytesMax: 1, log: silentLogger }).removeUnused(now, async () => new Set());
});
