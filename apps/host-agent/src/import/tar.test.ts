import { mkdtemp, open, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { PassThrough } from "node:stream";

import { PlatformError } from "@roost/contract";
import fc from "fast-check";
import { afterAll, beforeAll, expect, test } from "vitest";

import { ImageTree, type Folder } from "./image-tree.ts";
import { readTar, type TarEntry } from "./tar-reader.ts";
import { gzipLayer, rawTar } from "./testing/oci.ts";
import { writeTree } from "./write-tar.ts";

const signal = new AbortController().signal;
let scratch: string;

beforeAll(async () => {
  scratch = await mkdtemp(join(tmpdir(), "roost-tar-"));
});
afterAll(() => rm(scratch, { recursive: true, force: true }));

/** Reads an archive to its end, or to what is wrong with it. */
async function entriesOf(tar: Buffer): Promise<(TarEntry & { content: Buffer })[]> {
  const path = join(scratch, "archive.tar");
  await writeFile(path, tar);
  const file = await open(path, "r");
  try {
    const entries = [];
    for await (const entry of readTar({ file, start: 0, length: tar.length }, signal)) {
      if (entry.size > 1_000_000) continue; // a hostile size, with holes for most of it
      const content = Buffer.alloc(entry.size);
      for (const piece of entry.pieces) await file.read(content, piece.position, piece.length, piece.offset);
      entries.push({ ...entry, content });
    }
    return entries;
  } finally {
    await file.close();
  }
}

async function treeOf(tar: Buffer): Promise<Buffer> {
  const path = join(scratch, "layer.tar");
  await writeFile(path, tar);
  const file = await open(path, "r");
  try {
    const tree = new ImageTree({ entries: 0, bytes: 0, bytesMax: 2 ** 30 }, 5);
    await tree.apply(readTar({ file, start: 0, length: tar.length }, signal), file);
    const output = new PassThrough();
    const parts: Buffer[] = [];
    output.on("data", (part: Buffer) => parts.push(part));
    await writeTree(tree, output, { timeSec: 5, signal });
    return Buffer.concat(parts);
  } finally {
    await file.close();
  }
}

const bytes = (max: number) =>
  fc
    .uint8Array({ minLength: 1, maxLength: max })
    .map((array) => Buffer.from(array.map((byte) => (byte === 0 || byte === 0x2f ? 0x61 : byte))).toString("latin1"));

test("what is written is what was read, with names of any bytes", async () => {
  const name = bytes(255).filter((text) => text !== "." && text !== ".." && !text.startsWith(".wh.") && text !== "lost+found");
  const entry = fc.record({
    path: fc.array(name, { minLength: 1, maxLength: 3 }),
    data: fc.uint8Array({ maxLength: 2_000 }),
    mode: fc.nat(0o7777),
    uid: fc.nat(4_294_967_294),
    gid: fc.nat(4_294_967_294),
    capability: fc.option(fc.uint8Array({ maxLength: 24 })),
  });
  await fc.assert(
    fc.asyncProperty(fc.uniqueArray(entry, { maxLength: 6, selector: ({ path }) => path[0] }), async (files) => {
      const tar = rawTar(
        files.map(({ path, data, mode, uid, gid, capability }) => ({
          name: "x",
          data: Buffer.from(data),
          mode,
          pax: {
            path: Buffer.from(path.join("/"), "latin1"),
            uid: String(uid),
            gid: String(gid),
            ...(capability === null ? {} : { "SCHILY.xattr.security.capability": Buffer.from(capability) }),
          },
        })),
      );
      const read = (await entriesOf(await treeOf(tar))).filter(({ kind }) => kind === "file");
      const seen = new Map(read.map((each) => [each.path, each]));
      expect(read).toHaveLength(files.length);
      for (const { path, data, mode, uid, gid, capability } of files) {
        const found = seen.get(path.join("/"));
        expect(found).toMatchObject({ mode, uid, gid });
        expect(found?.content.equals(Buffer.from(data))).toBe(true);
        expect(found?.attributes.get("security.capability")?.toString("hex")).toBe(
          capability === null ? undefined : Buffer.from(capability).toString("hex"),
        );
      }
    }),
    { numRuns: 60 },
  );
});

test("whatever a layer's bytes are, it is read or refused as unusable", async () => {
  const whole = rawTar([
    { name: "./", type: "5" },
    { name: "a", data: "some content", pax: { mtime: "12.5", "SCHILY.xattr.user.x": "y" } },
    { name: "long", data: "n".repeat(700), pax: { path: "p".repeat(200) } },
    {
      name: "sparse",
      data: Buffer.concat([Buffer.from("1\n0\n5\n".padEnd(512, "\0")), Buffer.from("12345")]),
      pax: { "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "900" },
    },
    { name: "l", type: "1", link: "a" },
    { name: "s", type: "2", link: "a" },
    { name: "././@LongLink", type: "L", data: "q/".repeat(150) },
    { name: "d", type: "3", major: 1, minor: 3 },
  ]);
  const fixed = await entriesOf(whole);
  await treeOf(whole);
  expect(fixed.map(({ path }) => path)).toEqual(["./", "a", "p".repeat(200), "sparse", "l", "s", "q/".repeat(150)]);
  expect(fixed[3]?.content.toString("latin1", 0, 6)).toBe("12345\0");
  const change = fc.tuple(fc.nat(whole.length - 1), fc.nat(255), fc.boolean());
  await fc.assert(
    fc.asyncProperty(fc.array(change, { minLength: 1, maxLength: 4 }), fc.nat(whole.length), async (changes, cut) => {
      const tar = Buffer.from(whole.subarray(0, cut % 3 === 0 ? cut : whole.length));
      for (const [at, value, isSummed] of changes) {
        if (at >= tar.length) continue;
        tar[at] = value;
        // With a checksum that is right again, or few changes would get past it
        const start = at - (at % 512);
        if (!isSummed || start + 512 > tar.length) continue;
        tar.fill(0x20, start + 148, start + 156);
        const sum = [...tar.subarray(start, start + 512)].reduce((all, byte) => all + byte, 0);
        tar.write(`${sum.toString(8).padStart(6, "0")}\0 `, start + 148, "latin1");
      }
      for (const read of [entriesOf, treeOf]) {
        const failure: unknown = await read(tar).then(
          () => undefined,
          (error: unknown) => error,
        );
        if (failure !== undefined && !(failure instanceof PlatformError && failure.code === "image_unusable")) throw failure;
      }
    }),
    { numRuns: 300 },
  );
});

test("the archive of a tree depends on its files alone", async () => {
  const files = [
    { name: "b", data: "2" },
    { name: "a", data: "1" },
    { name: "c", type: "1", link: "b" },
  ];
  const one = await treeOf(rawTar(files));
  const other = await treeOf(rawTar([...files.slice(0, 2).toReversed(), ...files.slice(2)]));
  expect(one.equals(other)).toBe(true);
  expect(gzipLayer(one).diffId).toBe(gzipLayer(other).diffId);
});

test("a path with thousands of folders is refused, not walked", async () => {
  const deep = rawTar([{ name: "x", data: "1", pax: { path: "d/".repeat(2_000) + "x" } }]);
  await expect(treeOf(deep)).rejects.toMatchObject({ code: "image_unusable" });
});

test("boot folders are there, whatever the image has in their places", async () => {
  const path = join(scratch, "boot.tar");
  const tar = rawTar([
    { name: "proc", type: "2", link: "/etc" },
    { name: "run", data: "file" },
    { name: "tmp", type: "5", mode: 0o700 },
  ]);
  await writeFile(path, tar);
  const file = await open(path, "r");
  const tree = new ImageTree({ entries: 0, bytes: 0, bytesMax: 1_000 }, 5);
  await tree.apply(readTar({ file, start: 0, length: tar.length }), file);
  await file.close();
  tree.complete();
  const kinds = [...tree.root.children].map(([name, inode]) => `${name} ${inode.kind} ${(inode as Folder).mode.toString(8)}`).sort();
  expect(kinds).toEqual(["dev folder 755", "proc folder 555", "run folder 755", "sys folder 555", "tmp folder 700"]);
});
