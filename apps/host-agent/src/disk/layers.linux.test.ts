import { chmod, copyFile, mkdir, mkdtemp, open, readdir, readFile, rm, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { KiB, MiB, run } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { checkFreeSpace, freeBytes } from "./free-space.ts";
import { validateLayer } from "./layer-header.ts";
import { createLayer, freezeLayer, removeLayer } from "./layers.ts";

// Needs root (files get another owner) and qemu-img.

const uid = 70_123;
const gid = 70_124;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-disk-"));
  await chmod(folder, 0o755);
});
afterEach(async () => {
  await rm(folder, { recursive: true, force: true });
});

const at = (name: string) => join(folder, name);

test("a layer is empty, has the size asked for, names nothing, and belongs to its VM alone", async () => {
  for (const sizeMib of [64, 10_240, 64]) {
    const path = at(`${(await readdir(folder)).length}.qcow2`);
    await createLayer({ path, sizeMib, uid, gid });
    const info = JSON.parse(await run(["qemu-img", "info", "--output=json", "-f", "qcow2", path])) as Record<string, unknown>;
    expect(info).toMatchObject({ format: "qcow2", "virtual-size": sizeMib * MiB, "cluster-size": 64 * KiB, "dirty-flag": false });
    expect(info).not.toHaveProperty("backing-filename");
    expect(await run(["qemu-img", "check", "-f", "qcow2", path])).toContain("No errors were found");
    const map = JSON.parse(await run(["qemu-img", "map", "--output=json", "-f", "qcow2", path])) as { present: boolean }[];
    expect(map.map(({ present }) => present)).toEqual([false]);
    const status = await stat(path);
    expect([status.uid, status.gid, status.mode & 0o777]).toEqual([uid, gid, 0o600]);
    expect(status.blocks * 512).toBeLessThan(64 * KiB);
    await validateLayer(path, { sizeMib });
  }
});

test("an empty layer is the same as the next one of its size", async () => {
  await createLayer({ path: at("a.qcow2"), sizeMib: 512, uid, gid });
  await createLayer({ path: at("b.qcow2"), sizeMib: 512, uid, gid });
  expect((await readFile(at("a.qcow2"))).equals(await readFile(at("b.qcow2")))).toBe(true);
});

test("a leftover of a crash is no obstacle, and removal is complete and idempotent", async () => {
  await writeFile(at("top.qcow2.new"), "half a layer");
  await createLayer({ path: at("top.qcow2"), sizeMib: 64, uid, gid });
  expect(await readdir(folder)).toEqual(["top.qcow2"]);
  await writeFile(at("top.qcow2.new"), "left by a crash");
  await removeLayer(at("top.qcow2"));
  await removeLayer(at("top.qcow2"));
  expect(await readdir(folder)).toEqual([]);
});

test("a frozen layer cannot be opened for writing, removed or renamed by its VM; twice is as good as once", async () => {
  const disk = at("disk");
  await mkdir(disk);
  await run(["chown", `0:${gid}`, disk]);
  await chmod(disk, 0o710);
  const path = join(disk, "l.qcow2");
  await createLayer({ path, sizeMib: 64, uid, gid });
  const asVm = (script: string) => run(["setpriv", `--reuid=${uid}`, `--regid=${gid}`, "--clear-groups", "--", "sh", "-c", script]);
  await asVm(`head -c 4 ${path} && : >>${path}`);
  for (const _ of [1, 2]) await freezeLayer(path);
  const status = await stat(path);
  expect([status.uid, status.gid, status.mode & 0o777]).toEqual([0, 0, 0o444]);
  await asVm(`head -c 4 ${path} >/dev/null`);
  for (const script of [
    `: >>${path}`,
    `rm -f ${path}`,
    `mv ${path} ${path}2`,
    `ln ${path} ${path}2`,
    `chmod u+w ${path}`,
    `: >${disk}/new`,
  ]) {
    await expect(asVm(script), script).rejects.toThrow(/Permission denied|not permitted/);
  }
});

test("a full disk is told as one, and nothing is left", async () => {
  const small = at("small");
  await mkdir(small);
  await run(["mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", small]);
  try {
    await expect(createLayer({ path: join(small, "l.qcow2"), sizeMib: 64, uid, gid })).rejects.toMatchObject({ code: "host_disk_full" });
    expect(await readdir(small)).toEqual([]);
  } finally {
    await run(["umount", small]);
  }
  await expect(checkFreeSpace(folder, MiB, (await freeBytes(folder)) + 1024 * MiB)).rejects.toMatchObject({
    code: "host_disk_full",
    retryAfterSec: 60,
  });
  await expect(checkFreeSpace(folder, MiB, 0)).resolves.toBeUndefined();
});

describe("a file that a VMM may have changed", () => {
  const refusals: readonly (readonly [what: string, make: (path: string) => Promise<unknown>, why: RegExp])[] = [
    ["names a backing file", (path) => create(path, "-u", "-F", "raw", "-b", "/etc/shadow"), /names a backing file/],
    ["names a data file", (path) => create(path, "-o", `data_file=${path}.data`), /features|extension/],
    ["has a feature ours do not have", (path) => create(path, "-o", "extended_l2=on,cluster_size=128k"), /clusters|features/],
    ["has other clusters", (path) => create(path, "-o", "cluster_size=4k"), /clusters/],
    ["is of another version", (path) => create(path, "-o", "compat=0.10"), /version 2/],
    ["counts its references later", (path) => create(path, "-o", "lazy_refcounts=on"), /compatible features 1/],
    ["has wider reference counts", (path) => create(path, "-o", "refcount_bits=64"), /reference counts/],
    ["compresses in another way", (path) => create(path, "-o", "compression_type=zstd"), /features/],
    ["is of another size", (path) => run(["qemu-img", "create", "-q", "-f", "qcow2", path, "32M"]), /not of 64 MiB/],
    ["is raw", (path) => writeFile(path, Buffer.alloc(MiB, "raw")), /not qcow2/],
    ["is empty", (path) => writeFile(path, ""), /not qcow2/],
    ["is missing", async () => undefined, /ENOENT/],
    ["is a link", (path) => symlink("/etc/passwd", path), /ELOOP/],
    ["is a pipe", (path) => run(["mkfifo", path]), /not a file/],
    ["is a folder", (path) => mkdir(path), /not a file/],
    ["has a snapshot inside", async (path) => (await create(path), run(["qemu-img", "snapshot", "-c", "one", path])), /snapshots/],
    ["was cut off", async (path) => (await create(path), truncate(path, 90)), /not qcow2/],
  ];

  async function create(path: string, ...options: string[]): Promise<string> {
    return run(["qemu-img", "create", "-q", "-f", "qcow2", ...options, path, "64M"]);
  }

  test.each(refusals)("is refused when it %s", async (_what, make, why) => {
    await make(at("l.qcow2"));
    const refusal = await validateLayer(at("l.qcow2"), { sizeMib: 64 }).catch((error: unknown) => error);
    expect(refusal).toMatchObject({ name: "PlatformError", code: "image_damaged", detail: expect.stringMatching(why) as string });
  });

  test("is judged, whatever its first bytes are", async () => {
    const random = new SeededRandom();
    await createLayer({ path: at("good.qcow2"), sizeMib: 64, uid, gid });
    let refused = 0;
    for (let round = 0; round < 300; round += 1) {
      await copyFile(at("good.qcow2"), at("bad.qcow2"));
      await using handle = await open(at("bad.qcow2"), "r+");
      for (let change = 0; change <= random.integer(4); change += 1) {
        await handle.write(random.bytes(1 + random.integer(8)), 0, undefined, random.integer(700));
      }
      const outcome = await validateLayer(at("bad.qcow2"), { sizeMib: 64 }).catch((error: unknown) => error);
      if (outcome === undefined) continue; // only what the check does not look at: names of features, places of tables
      refused += 1;
      expect(outcome, `SEED=${random.seed} round ${round}`).toMatchObject({ code: "image_damaged" });
    }
    expect(refused).toBeGreaterThan(50);
  });
});
