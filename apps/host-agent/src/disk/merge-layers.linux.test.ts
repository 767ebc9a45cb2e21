import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { KiB, MiB, run } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { validateLayer } from "./layer-header.ts";
import { createLayer, freezeLayer } from "./layers.ts";
import { mergeLayers } from "./merge-layers.ts";

// Needs root, qemu-img, qemu-io and qemu-storage-daemon.

const sizeMib = 8;
const uid = 70_123;

let folder: string;
let disk: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-merge-test-"));
  disk = join(folder, "disk");
  await mkdir(disk);
  await writeFile(join(folder, "base.raw"), Buffer.alloc(sizeMib * MiB, 0xee));
});
afterEach(async () => {
  expect((await readdir(tmpdir())).filter((name) => name.startsWith("roost-merge-") && !name.startsWith("roost-merge-test-"))).toEqual([]);
  await rm(folder, { recursive: true, force: true });
});

const at = (name: string) => join(disk, `${name}.qcow2`);

/** A disk of these layers, oldest first, on the base, for QEMU's tools. */
function chain(names: readonly string[], writable: boolean): string {
  let node: Record<string, unknown> = { driver: "raw", "read-only": true, file: { driver: "file", filename: join(folder, "base.raw") } };
  names.forEach((name, index) => {
    const readOnly = !writable || index < names.length - 1;
    const file = { driver: "file", filename: at(name), "read-only": readOnly };
    node = { driver: "qcow2", discard: "unmap", "read-only": readOnly, file, backing: node };
  });
  return `json:${JSON.stringify(node)}`;
}

async function addLayer(names: readonly string[], commands: readonly string[]): Promise<void> {
  const name = names.at(-1) ?? "";
  await createLayer({ path: at(name), sizeMib, uid, gid: uid });
  const args = commands.flatMap((command) => ["-c", command]);
  if (args.length > 0) await run(["/usr/bin/qemu-io", "-d", "unmap", ...args, chain(names, true)]);
  await freezeLayer(at(name));
}

async function content(names: readonly string[]): Promise<Buffer> {
  const copy = join(folder, "copy.raw");
  await run(["/usr/bin/qemu-img", "convert", "-O", "raw", chain(names, false), copy]);
  return readFile(copy);
}

test("holes stay holes, zeros stay zeros, and the newest data counts, over any base", async () => {
  await addLayer(
    ["a"],
    ["write -P 0x11 0 256k", "write -P 0x12 1M 64k", "write -z 2M 128k", "write -P 0x13 3M 192k", "write -P 0x14 5000k 1k"],
  );
  await addLayer(
    ["a", "b"],
    ["write -z 64k 64k", "write -P 0x22 2112k 64k", "discard 3M 64k", "write -z -u 3136k 64k", "write -P 0x23 4M 64k"],
  );
  await addLayer(["a", "b", "c"], ["write -P 0x33 128k 64k", "write -z 4M 64k", "write -P 0x34 5003k 1k", "write -P 0x00 6M 64k"]);
  const digests = await Promise.all(["a", "b", "c"].map((name) => readFile(at(name))));
  const before = await content(["a", "b", "c"]);
  await mergeLayers({ layers: ["a", "b", "c"].map(at), output: at("m"), sizeMib });

  const after = await content(["m"]);
  expect(after.equals(before)).toBe(true);
  const byte = (offset: number) => after[offset];
  // The data itself, so that a mistake in `chain` does not go unnoticed
  expect([0, 64 * KiB, 128 * KiB, 192 * KiB, 256 * KiB].map(byte)).toEqual([0x11, 0, 0x33, 0x11, 0xee]);
  expect([2 * MiB, 2112 * KiB, 3 * MiB, 3136 * KiB, 3200 * KiB, 4 * MiB, 6 * MiB, 7 * MiB].map(byte)).toEqual([
    0, 0x22, 0, 0, 0x13, 0, 0, 0xee,
  ]);

  // The same over another base: nothing of the first one was copied
  await writeFile(join(folder, "base.raw"), Buffer.alloc(sizeMib * MiB, 0x77));
  expect((await content(["m"])).equals(await content(["a", "b", "c"]))).toBe(true);
  expect((await content(["m"]))[7 * MiB]).toBe(0x77);

  await validateLayer(at("m"), { sizeMib });
  expect(await run(["/usr/bin/qemu-img", "check", "-f", "qcow2", at("m")])).toContain("No errors were found");
  const status = await stat(at("m"));
  expect([status.uid, status.gid, status.mode & 0o777]).toEqual([0, 0, 0o444]);
  for (const [index, name] of ["a", "b", "c"].entries())
    expect((await readFile(at(name))).equals(digests[index] ?? Buffer.alloc(0))).toBe(true);
  expect((await readdir(disk)).toSorted()).toEqual(["a.qcow2", "b.qcow2", "c.qcow2", "m.qcow2"]);
});

test("random layers show the same before and after, in any grouping", async () => {
  const random = new SeededRandom();
  const names: string[] = [];
  for (let layer = 0; layer < 5; layer += 1) {
    names.push(`r${layer}`);
    const commands = Array.from({ length: 1 + random.integer(12) }, () => {
      const offset = random.integer(sizeMib * 1024 - 300) * KiB;
      const length = (1 + random.integer(260)) * KiB;
      const kind = random.pick([`write -P ${1 + random.integer(255)}`, "write -z", "write -z -u", "discard"] as const);
      return `${kind} ${offset} ${length}`;
    });
    await addLayer(names, commands);
  }
  const before = await content(names);
  await mergeLayers({ layers: names.slice(0, 2).map(at), output: at("low"), sizeMib });
  await mergeLayers({ layers: names.slice(2).map(at), output: at("high"), sizeMib });
  expect((await content(["low", "high"])).equals(before), `SEED=${random.seed}`).toBe(true);
  await mergeLayers({ layers: [at("low"), at("high")], output: at("all"), sizeMib });
  await writeFile(join(folder, "base.raw"), Buffer.alloc(sizeMib * MiB, 0x55));
  expect((await content(["all"])).equals(await content(names)), `SEED=${random.seed}`).toBe(true);
});

test("many at once take turns, and one that is aborted leaves nothing", async () => {
  await addLayer(["a"], ["write -P 1 0 4M"]);
  await addLayer(["a", "b"], ["write -P 2 1M 4M"]);
  const abort = new AbortController();
  const outcomes = Promise.allSettled(
    ["one", "two", "three"].map((name) =>
      mergeLayers({ layers: [at("a"), at("b")], output: at(name), sizeMib, ...(name === "two" ? { signal: abort.signal } : {}) }),
    ),
  );
  abort.abort(new Error("not now"));
  expect((await outcomes).map(({ status }) => status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  expect((await readdir(disk)).toSorted()).toEqual(["a.qcow2", "b.qcow2", "one.qcow2", "three.qcow2"]);
});

test("a merge that is aborted while it copies leaves nothing, and the next one works", async () => {
  await addLayer(["a"], ["write -P 1 0 8M"]);
  await addLayer(["a", "b"], ["write -P 2 1M 4M"]);
  const random = new SeededRandom();
  for (let round = 0; round < 6; round += 1) {
    const delayMs = random.integer(120);
    const options = { layers: [at("a"), at("b")], output: at("m"), sizeMib };
    const outcome = await mergeLayers({ ...options, signal: AbortSignal.timeout(delayMs) }).catch((error: unknown) => error);
    const context = `SEED=${random.seed} round ${round}, after ${delayMs} ms`;
    const expected = outcome === undefined ? ["a.qcow2", "b.qcow2", "m.qcow2"] : ["a.qcow2", "b.qcow2"];
    expect((await readdir(disk)).toSorted(), context).toEqual(expected);
    await rm(at("m"), { force: true });
  }
  await mergeLayers({ layers: [at("a"), at("b")], output: at("m"), sizeMib });
  expect((await content(["m"])).equals(await content(["a", "b"]))).toBe(true);
});

test("a layer that names another file, or is damaged inside, is not merged", async () => {
  await addLayer(["a"], ["write -P 1 0 4M"]);
  await run(["/usr/bin/qemu-img", "create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", "/etc/shadow", at("evil"), `${sizeMib}M`]);
  const evil = { layers: [at("a"), at("evil")], output: at("m"), sizeMib };
  await expect(mergeLayers(evil)).rejects.toMatchObject({ code: "image_damaged" });
  // A valid header, and tables that point anywhere
  const damaged = await readFile(at("a"));
  damaged.fill(0xff, 192 * KiB, 196 * KiB);
  await writeFile(at("damaged"), damaged);
  await chmod(at("damaged"), 0o444);
  await expect(mergeLayers({ layers: [at("damaged")], output: at("m"), sizeMib })).rejects.toThrow(/could not be merged/);
  expect((await readdir(disk)).toSorted()).toEqual(["a.qcow2", "damaged.qcow2", "evil.qcow2"]);
});
