import { chmod, mkdtemp, open, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { MiB, run } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { checkFreeSpace, freeBytes } from "./free-space.ts";
import { createOverlay, removeOverlay, type OverlayOptions } from "./overlay.ts";

// Needs root (files get another owner) and qemu-img.

let folder: string;
let options: OverlayOptions;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-disk-"));
  const base = join(folder, "base, with a comma.raw");
  await writeFile(base, Buffer.alloc(MiB, "base"));
  await chmod(base, 0o444);
  options = { base, path: join(folder, "root.qcow2"), sizeMib: 64, uid: 70_123, gid: 70_124, reserveBytes: 0 };
});

afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

test("an overlay shows its base, has the size asked for, and belongs to its VM alone", async () => {
  const before = await readFile(options.base);
  await createOverlay(options);
  const info = JSON.parse(await run(["qemu-img", "info", "--output=json", options.path])) as Record<string, unknown>;
  expect(info).toMatchObject({
    format: "qcow2",
    "virtual-size": 64 * MiB,
    "backing-filename": options.base,
    "backing-filename-format": "raw",
    "dirty-flag": false,
  });
  const status = await stat(options.path);
  expect([status.uid, status.gid, status.mode & 0o777]).toEqual([70_123, 70_124, 0o600]);
  expect(status.blocks * 512).toBeLessThan(MiB);

  const copy = join(folder, "copy.raw");
  await run(["qemu-img", "convert", "-O", "raw", options.path, copy]);
  expect((await readFile(copy)).subarray(0, MiB).equals(before)).toBe(true);
  expect((await readFile(options.base)).equals(before)).toBe(true);
});

test("removal is complete and idempotent", async () => {
  await createOverlay(options);
  await writeFile(`${options.path}.new`, "left by a crash");
  await removeOverlay(options.path);
  await removeOverlay(options.path);
  expect(await readdir(folder)).toEqual(["base, with a comma.raw"]);
});

test("a leftover of a crash is no obstacle", async () => {
  await writeFile(`${options.path}.new`, "half an overlay");
  await createOverlay(options);
  expect((await readdir(folder)).toSorted()).toEqual(["base, with a comma.raw", "root.qcow2"]);
});

test("a base that is missing, damaged or larger than the disk is refused, and nothing is left", async () => {
  const damaged = join(folder, "damaged.raw");
  await writeFile(damaged, "odd");
  await expect(createOverlay({ ...options, base: join(folder, "none.raw") })).rejects.toMatchObject({ code: "template_not_found" });
  await expect(createOverlay({ ...options, base: damaged })).rejects.toMatchObject({ code: "template_not_found" });
  await expect(createOverlay({ ...options, base: folder })).rejects.toMatchObject({ code: "template_not_found" });
  const large = join(folder, "large.raw");
  {
    await using handle = await open(large, "w");
    await handle.truncate(65 * MiB);
  }
  await expect(createOverlay({ ...options, base: large })).rejects.toMatchObject({ code: "request_invalid" });
  expect((await readdir(folder)).filter((name) => name.startsWith("root"))).toEqual([]);
});

test("a disk that is too full is refused before anything is written", async () => {
  const reserveBytes = (await freeBytes(folder)) + 1024 * MiB;
  const refusal = await createOverlay({ ...options, reserveBytes }).catch((error: unknown) => error);
  expect(refusal).toMatchObject({ code: "host_disk_full", retryAfterSec: 60 });
  expect(await readdir(folder)).toEqual(["base, with a comma.raw"]);
  await expect(checkFreeSpace(folder, MiB, 0)).resolves.toBeUndefined();
});
