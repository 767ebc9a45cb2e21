import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, symlink, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { SeededRandom } from "@roost/testing";
import { Header, type HeaderData } from "tar";
import { afterEach, beforeEach, expect, test } from "vitest";

import { extractTar, safeName, staysInside } from "./extract-tar.ts";

let folder: string;
let destination: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-tar-"));
  destination = join(folder, "destination");
  await writeFile(join(folder, "precious"), "untouched");
});
afterEach(async () => {
  expect(await readFile(join(folder, "precious"), "utf8")).toBe("untouched");
  expect((await readdir(folder)).filter((name) => name !== "destination")).toEqual(["precious"]);
  await rm(folder, { recursive: true });
});

type Entry = Partial<HeaderData> & { readonly path: string; readonly data?: string };

/** An archive with exactly these headers, however wrong they are. */
function archiveOf(entries: readonly Entry[]): Buffer {
  const blocks: Buffer[] = [];
  for (const { data = "", ...entry } of entries) {
    const header = new Header({ mode: 0o644, uid: 0, gid: 0, size: data.length, mtime: new Date(0), type: "File", ...entry });
    const block = Buffer.alloc(512);
    header.encode(block, 0);
    blocks.push(block);
    if (data.length > 0) {
      const padded = Buffer.alloc(Math.ceil(data.length / 512) * 512);
      padded.write(data);
      blocks.push(padded);
    }
  }
  return Buffer.concat([...blocks, Buffer.alloc(1024)]);
}

async function* chunksOf(bytes: Buffer, size = 700): AsyncGenerator<Buffer> {
  for (let start = 0; start < bytes.length; start += size) yield bytes.subarray(start, start + size);
}

const extract = async (...entries: Entry[]) => extractTar(chunksOf(archiveOf(entries)), destination);

test("files, folders, links and modes arrive", async () => {
  const result = await extract(
    { path: "./", type: "Directory" },
    { path: "./a/b/", type: "Directory", mode: 0o750 },
    { path: "./a/b/run", data: "#!/bin/sh\n", mode: 0o4755 },
    { path: "./a/link", type: "SymbolicLink", linkpath: "b/run" },
    { path: "./a/up", type: "SymbolicLink", linkpath: "../a/b" },
    { path: "./twin", type: "Link", linkpath: "./a/b/run" },
    { path: "empty" },
  );
  expect(result).toEqual({ files: 3, bytes: 20, skipped: [] });
  expect(await readFile(join(destination, "a/link"), "utf8")).toBe("#!/bin/sh\n");
  expect(await readFile(join(destination, "a/up/run"), "utf8")).toBe("#!/bin/sh\n");
  expect((await stat(join(destination, "a/b/run"))).mode & 0o7777).toBe(0o755 & ~process.umask());
  expect((await stat(join(destination, "a/b"))).mode & 0o777).toBe(0o750);
  expect((await stat(join(destination, "twin"))).nlink).toBe(1);
});

test.each(["../evil", "a/../../evil", "/evil", "a/b/../../../evil", "..", "./../evil"])("a file named %j ends the copy", async (path) => {
  await expect(extract({ path: "fine", data: "x" }, { path, data: "evil" })).rejects.toThrow("wants to be outside");
});

test("a link and then a file through it: nothing is written through the link", async () => {
  await expect(
    extract({ path: "out", type: "SymbolicLink", linkpath: ".." }, { path: "out/precious", data: "overwritten" }),
  ).resolves.toMatchObject({ files: 1, skipped: [{ name: "out" }] });
  expect((await lstat(join(destination, "out"))).isDirectory()).toBe(true);
});

test("a link of the user's own in the destination is not followed either", async () => {
  await mkdir(destination);
  await symlink("..", join(destination, "out"));
  await expect(extract({ path: "out/precious", data: "overwritten" })).rejects.toThrow("is in the way");
  await expect(extract({ path: "out/", type: "Directory" }, { path: "out/new", data: "x" })).rejects.toThrow("is in the way");
});

test("a file replaces a link of its name rather than what it leads to", async () => {
  await mkdir(destination);
  await symlink("../precious", join(destination, "note"));
  await extract({ path: "note", data: "mine" });
  expect((await lstat(join(destination, "note"))).isFile()).toBe(true);
});

test.each(["/etc/passwd", "..", "../precious", "a/../../precious", "b/../../x", "sub/.."])("a link to %j is not made", async (linkpath) => {
  const result = await extract({ path: "sub/", type: "Directory" }, { path: "link", type: "SymbolicLink", linkpath });
  expect(result.skipped).toEqual([{ name: "link", why: "a link that leads outside" }]);
  await expect(readlink(join(destination, "link"))).rejects.toThrow("ENOENT");
});

test("a hard link to something outside or not copied is skipped", async () => {
  const result = await extract({ path: "twin", type: "Link", linkpath: "precious" });
  expect(result.skipped).toMatchObject([{ name: "twin" }]);
  await expect(extract({ path: "twin", type: "Link", linkpath: "../precious" })).rejects.toThrow("wants to be outside");
});

test("devices and pipes are skipped", async () => {
  const result = await extract(
    { path: "null", type: "CharacterDevice" },
    { path: "disk", type: "BlockDevice" },
    { path: "pipe", type: "FIFO" },
  );
  expect(result.skipped.map(({ name }) => name)).toEqual(["null", "disk", "pipe"]);
  expect(await readdir(destination)).toEqual([]);
});

test("a file cannot replace a folder, a folder not a file", async () => {
  await expect(extract({ path: "a/b", data: "x" }, { path: "a", data: "y" })).rejects.toThrow("cannot replace the folder");
  await expect(extract({ path: "f", data: "x" }, { path: "f/g", data: "y" })).rejects.toThrow("is in the way");
});

test("an archive that breaks off, or is none, fails", async () => {
  const noise = new SeededRandom(7).bytes(4096);
  await expect(extract({ path: "link", type: "SymbolicLink", linkpath: "" })).rejects.toThrow("broken archive");
  await expect(extractTar(chunksOf(Buffer.from(noise)), destination)).rejects.toThrow("broken archive");
  const whole = archiveOf([{ path: "a", data: "x".repeat(5000) }]);
  await expect(extractTar(chunksOf(whole.subarray(0, 2000)), destination)).rejects.toThrow("broken archive");
});

test("a source that fails while an entry is open fails the copy", async () => {
  const whole = archiveOf([{ path: "a", data: "x".repeat(5000) }]);
  const broken = async function* () {
    yield whole.subarray(0, 2000);
    throw new Error("connection lost");
  };
  await expect(extractTar(broken(), destination)).rejects.toThrow("connection lost");
});

test("names and links: nothing that resolves outside is ever allowed (seeded)", () => {
  const random = new SeededRandom();
  const parts = ["..", ".", "a", "b", "", "c"] as const;
  for (let round = 0; round < 5000; round += 1) {
    const path = Array.from({ length: 1 + random.integer(5) }, () => random.pick([...parts])).join("/");
    let name: string | undefined;
    try {
      name = safeName(path);
    } catch {
      continue;
    }
    expect(join("/root", name).startsWith("/root"), `SEED=${random.seed} ${path}`).toBe(true);
    const target = Array.from({ length: 1 + random.integer(5) }, () => random.pick([...parts])).join("/");
    if (name !== "" && staysInside(name, target)) {
      const resolved = join("/root", name, "..", target);
      expect(`${resolved}/`.startsWith("/root/"), `SEED=${random.seed} ${name} -> ${target}`).toBe(true);
    }
  }
});
