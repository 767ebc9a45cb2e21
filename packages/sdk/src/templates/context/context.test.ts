import { execFile } from "node:child_process";
import { createReadStream } from "node:fs";
import { chmod, link, mkdir, mkdtemp, readFile, rm, symlink, truncate, utimes, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { createGunzip, gzipSync } from "node:zlib";

import { extract } from "tar-stream";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import type { LocalCopy } from "../recipe-plan.ts";
import { hashArchive, packArchive, type ReadingOptions } from "./archive.ts";
import type { ContextEntry } from "./entry.ts";
import { ContextFolder } from "./context-folder.ts";
import { layOut } from "./layout.ts";
import { IgnoreRules, nameMatcher } from "./patterns.ts";

let folder: string;
let root: string;
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-context-"));
  root = join(folder, "context");
  await mkdir(root);
});
afterEach(() => rm(folder, { recursive: true, force: true }));

async function write(files: Readonly<Record<string, string>>): Promise<void> {
  for (const [path, content] of Object.entries(files)) {
    await mkdir(dirname(join(root, path)), { recursive: true });
    await writeFile(join(root, path), content);
    await chmod(join(root, path), 0o644);
  }
}

const packed = (entries: readonly ContextEntry[]) => ({ kind: "packed", entries, isCompressed: true }) as const;
const hashEntries = async (entries: readonly ContextEntry[], options?: ReadingOptions) => hashArchive(packed(entries), options);
const packEntries = async (entries: readonly ContextEntry[], hash: string, path: string, options?: ReadingOptions) =>
  packArchive(packed(entries), hash, path, options);

const copyOf = (sources: string[], destination = "/x/", more: Partial<LocalCopy> = {}): LocalCopy => ({
  kind: "local-copy",
  sources,
  inline: [],
  destination,
  user: undefined,
  mode: undefined,
  force: false,
  isAdd: false,
  ...more,
});

async function laidOut(sources: string[], destination?: string, more?: Partial<LocalCopy>) {
  const { entries, source } = await layOut(copyOf(sources, destination, more), await ContextFolder.open(root));
  return { source, paths: entries.map(({ path, kind }) => (kind === "folder" ? `${path}/` : path)), entries };
}

async function archiveOf(
  sources: string[],
  name = "a.tar.gz",
): Promise<{ readonly hash: string; readonly path: string; readonly length: number }> {
  const { entries } = await laidOut(sources);
  const hash = await hashEntries(entries);
  const path = join(folder, name);
  return { hash, path, length: await packEntries(entries, hash, path) };
}

async function unpacked(path: string) {
  const found: { name: string; type: string; mode: number; uid: number; mtime: number; linkname: string | null; content: string }[] = [];
  const reading = createReadStream(path).pipe(createGunzip()).pipe(extract());
  for await (const entry of reading) {
    const chunks: Buffer[] = [];
    for await (const chunk of entry as AsyncIterable<Buffer>) chunks.push(chunk);
    const { name, type, mode, uid, mtime, linkname } = entry.header;
    found.push({ name, type, mode, uid, mtime: mtime.getTime(), linkname, content: Buffer.concat(chunks).toString("utf8") });
  }
  return found;
}

describe("what a source names", () => {
  beforeEach(() => write({ "a.txt": "a", "b.md": "b", "sub/c.txt": "c", "sub/deep/d.txt": "d", "sub2/c.txt": "other", ".hidden": "h" }));

  test.each([
    [["a.txt"], "/x", "a.txt", ["a.txt"]],
    [["/a.txt"], "/x", "a.txt", ["a.txt"]],
    [["./sub/../a.txt"], "/x", "a.txt", ["a.txt"]],
    [["sub/c.txt"], "/x", "sub/c.txt", ["sub/c.txt"]],
    [["sub"], "/x", "sub", ["sub/", "sub/c.txt", "sub/deep/", "sub/deep/d.txt"]],
    [["sub/deep/"], "/x", "sub/deep", ["sub/deep/", "sub/deep/d.txt"]],
    [["."], "/x", ".", [".hidden", "a.txt", "b.md", "sub/", "sub/c.txt", "sub/deep/", "sub/deep/d.txt", "sub2/", "sub2/c.txt"]],
    [["*.txt"], "/x", "a.txt", ["a.txt"]],
    [["a.txt", "b.md"], "/x/", ".", ["a.txt", "b.md"]],
    [["*"], ".", ".", [".hidden", "a.txt", "b.md", "c.txt", "deep/", "deep/d.txt"]],
    [["sub*/c.txt"], "/x/", ".", ["c.txt"]],
    [["sub", "a.txt"], "/x/", ".", ["a.txt", "c.txt", "deep/", "deep/d.txt"]],
    [["[ab].*"], "/x/", ".", ["a.txt", "b.md"]],
    [["?.md"], "/x/", "b.md", ["b.md"]],
    [["s*/deep"], "/x/", "sub/deep", ["sub/deep/", "sub/deep/d.txt"]],
  ])("%j to %s", async (sources, destination, source, paths) => {
    expect(await laidOut(sources, destination)).toMatchObject({ source, paths });
  });

  test("of two of one name the later counts", async () => {
    const { entries } = await laidOut(["sub/c.txt", "sub2/c.txt"]);
    expect(entries).toMatchObject([{ path: "c.txt", file: join(root, "sub2/c.txt") }]);
  });

  test.each([
    [["nothing"], 'there is no "nothing" in the context folder'],
    [["*.nothing"], 'there is no "*.nothing"'],
    [["a.txt/b"], 'there is no "a.txt/b"'],
    [["../context/a.txt"], "is outside the context folder"],
    [["sub/../../other"], "is outside the context folder"],
    [["a[.txt"], 'the pattern "a[.txt" is not well-formed'],
  ])("%j is refused", async (sources, message) => expect(laidOut(sources)).rejects.toThrow(message));

  test("what a pattern finds several of needs a folder", async () => {
    await expect(laidOut(["*.txt", "b.md"], "/x")).rejects.toThrow("2 files need a folder as destination; write /x/");
  });

  test("a name that looks like a pattern is copied all the same", async () => {
    await write({ "app/[id]/x{1}.ts": "x" });
    expect(await laidOut(["app/\\[id\\]"], "/x")).toMatchObject({ source: ".", paths: ["x{1}.ts"] });
    expect(await laidOut(["app/\\[id\\]/x{1}.ts"], "/x/")).toMatchObject({ source: ".", paths: ["x{1}.ts"] });
    expect((await laidOut(["app"], "/x")).paths).toEqual(["app/", "app/[id]/", "app/[id]/x{1}.ts"]);
    await expect(laidOut(["app/*/x*"], "/x")).rejects.toThrow(
      "app/[id]/x{1}.ts, whose name looks like a pattern, needs a folder as destination",
    );
  });

  test("a folder and a file of one name are refused", async () => {
    await write({ "one/n": "file", "two/n/m": "folder" });
    await expect(laidOut(["one", "two"])).rejects.toThrow('two sources have "n", one of them as a folder');
  });

  test("text of a here-document is a file", async () => {
    const inline = [{ name: "f", content: "text\n" }];
    expect(await laidOut([], "/x", { inline })).toMatchObject({
      source: "f",
      entries: [{ kind: "inline", path: "f", mode: 0o644, content: "text\n" }],
    });
    expect(await laidOut(["a.txt"], "/x/", { inline })).toMatchObject({ source: ".", paths: ["a.txt", "f"] });
    expect(await layOut(copyOf([], "/x", { inline }), undefined)).toMatchObject({ source: "f" });
    await expect(layOut(copyOf(["a"]), undefined)).rejects.toThrow("there is no context folder");
  });
});

test("links stay links, but a source is what it leads to, and never outside", async () => {
  await write({ "real/file": "x", "secret/.keep": "" });
  await writeFile(join(folder, "outside"), "secret");
  await symlink("file", join(root, "real/link"));
  await symlink("/nowhere", join(root, "real/dangling"));
  await symlink("real", join(root, "folder-link"));
  await symlink("real/file", join(root, "file-link"));
  await symlink("../outside", join(root, "leading-out"));
  await symlink("..", join(root, "up"));
  expect(await laidOut(["real"], "/x")).toMatchObject({
    entries: [
      { path: "real", kind: "folder" },
      { path: "real/dangling", kind: "link", target: "/nowhere" },
      { path: "real/file", kind: "file" },
      { path: "real/link", kind: "link", target: "file" },
    ],
  });
  expect((await laidOut(["folder-link"], "/x")).paths).toEqual([
    "folder-link/",
    "folder-link/dangling",
    "folder-link/file",
    "folder-link/link",
  ]);
  expect(await laidOut(["file-link"], "/x")).toMatchObject({ source: "file-link", entries: [{ kind: "file", path: "file-link" }] });
  expect((await laidOut(["."], "/x")).entries).toContainEqual({ path: "leading-out", kind: "link", mode: 0o777, target: "../outside" });
  for (const source of ["leading-out", "up/outside", "u*/outside"])
    await expect(laidOut([source])).rejects.toThrow("outside the context folder");
});

describe(".dockerignore", () => {
  // as Docker's own documentation explains them
  test.each([
    ["", "a", false],
    ["# a", "a", false],
    ["a", "a", true],
    ["a", "b/a", false],
    ["/a/", "a/b/c", true],
    ["./a", "a", true],
    ["*/temp*", "x/temporary.txt", true],
    ["*/temp*", "temp", false],
    ["*/*/temp*", "x/y/temp", true],
    ["temp?", "tempa", true],
    ["temp?", "temp", false],
    ["**/*.go", "a.go", true],
    ["**/*.go", "x/y/a.go", true],
    ["*.md\n!README.md", "README.md", false],
    ["*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true],
    ["*.md\nREADME-secret.md\n!README*.md", "README-secret.md", false],
    ["dir\n!dir/keep", "dir/keep", false],
    ["dir\n!dir/keep", "dir/other", true],
    ["a/**", "a/b/c", true],
    ["a/**", "a", false],
    ["a/**/b", "a/b", true],
    ["a/**/b", "a/x/y/b", true],
    ["**", "any/thing", true],
    ["[a-c]x", "bx", true],
    ["[^a-c]x", "bx", false],
    ["a\\*b", "a*b", true],
    ["a\\*b", "axb", false],
    ["a.b", "axb", false],
    ["  spaced  ", "spaced", true],
    ["ü*", "über", true],
  ])("%j and %s: %s", (rules, path, isIgnored) => expect(new IgnoreRules(rules).ignores(path)).toBe(isIgnored));

  test("what it hides is not there, except what it excepts; its folder then is", async () => {
    await write({
      ".dockerignore": "out\nlog\n!log/keep/this\n",
      "out/a": "",
      "log/b": "",
      "log/keep/this": "",
      "log/keep/not": "",
      c: "",
    });
    expect((await laidOut(["."], "/x")).paths).toEqual([".dockerignore", "c", "log/", "log/keep/", "log/keep/this"]);
    expect((await laidOut(["log"], "/x")).paths).toEqual(["log/", "log/keep/", "log/keep/this"]);
    await expect(laidOut(["out"])).rejects.toThrow('there is no "out" in the context folder');
    await expect(laidOut(["out/a"])).rejects.toThrow(".dockerignore hides it");
    await expect(laidOut(["log/b"])).rejects.toThrow(".dockerignore hides it");
  });

  test("one beside the Dockerfile goes before the folder's", async () => {
    await write({ ".dockerignore": "a", "dev.Dockerfile": "", "dev.Dockerfile.dockerignore": "b\n*file*\n.dockerignore", a: "", b: "" });
    const context = await ContextFolder.open(root, join(root, "dev.Dockerfile"));
    expect((await layOut(copyOf(["."]), context)).entries.map(({ path }) => path)).toEqual(["a"]);
  });
});

test("names in patterns", () => {
  expect(["a.txt", "b.txt", "c.md"].filter(nameMatcher("[!a]*"))).toEqual(["a.txt"]); // Go's syntax: `!` is a character like any other, `^` negates
  expect(["a.txt", "b.txt", "c.md"].filter(nameMatcher("[^a]*"))).toEqual(["b.txt", "c.md"]);
  expect(["a-b", "a+b", "axb"].filter(nameMatcher("a[-+]b"))).toEqual(["a-b", "a+b"]);
  expect(["a]b", "axb"].filter(nameMatcher("a[\\]]b"))).toEqual(["a]b"]);
  expect(["(x)", "x"].filter(nameMatcher("(x)"))).toEqual(["(x)"]);
  expect(["𝒳", "ab"].filter(nameMatcher("?"))).toEqual(["𝒳"]);
});

describe("archives", () => {
  test("hold names, permissions, links and content, but neither owners nor times", async () => {
    const long = `${"long/".repeat(40)}näme ${"x".repeat(120)}`;
    await write({ "run.sh": "#!/bin/sh\n", empty: "", [long]: "deep", "ünï cödé/文件": "text" });
    await chmod(join(root, "run.sh"), 0o4755);
    await symlink("../run.sh", join(root, "ünï cödé/link"));
    await mkdir(join(root, "hollow"), { mode: 0o700 });
    await link(join(root, "run.sh"), join(root, "same.sh"));
    const { path, length } = await archiveOf(["."]);
    expect((await readFile(path)).length).toBe(length);
    const entries = await unpacked(path);
    const named = new Map(entries.map((entry) => [entry.name, entry]));
    expect(named.get("run.sh")).toMatchObject({ type: "file", mode: 0o4755, content: "#!/bin/sh\n" });
    expect(named.get("same.sh")).toMatchObject({ type: "file", content: "#!/bin/sh\n" });
    expect(named.get("empty")).toMatchObject({ type: "file", content: "" });
    expect(named.get("hollow/")).toMatchObject({ type: "directory", mode: 0o700 });
    expect(named.get("ünï cödé/link")).toMatchObject({ type: "symlink", linkname: "../run.sh" });
    expect(named.get("ünï cödé/文件")).toMatchObject({ content: "text" });
    expect(named.get(long)).toMatchObject({ content: "deep" });
    expect(new Set(entries.map(({ uid, mtime }) => `${uid} ${mtime}`))).toEqual(new Set([`0 ${Date.UTC(2000, 0, 1)}`]));
  });

  test("what other programs read is the same", async () => {
    await write({ "a/b": "content" });
    await symlink("b", join(root, "a/link"));
    const { path } = await archiveOf(["."]);
    const { stdout } = await promisify(execFile)("tar", ["-tvzf", path], { env: { PATH: process.env["PATH"], LC_ALL: "C", TZ: "UTC" } });
    expect(stdout).toMatch(
      /^drwxr-xr-x 0\/0 +0 2000-01-01 00:00 a\/\n-rw-r--r-- 0\/0 +7 2000-01-01 00:00 a\/b\nlrwxrwxrwx 0\/0 +0 .* a\/link -> b\n$/,
    );
  });

  test("of the same files are the same bytes, whenever and in whatever order they were made", async () => {
    await write({ b: "2", a: "1", B: "3" });
    const first = await archiveOf(["."], "1");
    await rm(root, { recursive: true });
    await mkdir(root);
    await write({ B: "3", a: "1", b: "2" });
    await utimes(join(root, "a"), 1, 1);
    const second = await archiveOf(["."], "2");
    expect(second.hash).toBe(first.hash);
    expect(await readFile(second.path)).toEqual(await readFile(first.path));
  });

  test("of other files have another hash", async () => {
    const hashes = new Set<string>();
    const add = async () => hashes.add(await hashEntries((await laidOut(["."])).entries));
    await write({ a: "12", b: "3" });
    await add();
    await write({ a: "1", b: "23" });
    await add();
    await chmod(join(root, "a"), 0o755);
    await add();
    await mkdir(join(root, "c"));
    await add();
    await rm(join(root, "c"), { recursive: true });
    await symlink("a", join(root, "c"));
    await add();
    await rm(join(root, "c"));
    await symlink("b", join(root, "c"));
    await add();
    await write({ d: "a" });
    await rm(join(root, "c"));
    await add();
    expect(hashes.size).toBe(7);
  });

  test("a sparse file is what it reads as", async () => {
    await writeFile(join(root, "sparse"), "begin");
    await truncate(join(root, "sparse"), 3_000_000);
    const { path, length } = await archiveOf(["sparse"]);
    const [entry] = await unpacked(path);
    expect(entry?.content.length).toBe(3_000_000);
    expect(length).toBeLessThan(100_000);
  });

  test("a file that changes between the two readings is not sent", async () => {
    await write({ a: "before" });
    const { entries } = await laidOut(["a"]);
    const hash = await hashEntries(entries);
    for (const [index, content] of ["after!", "more than before", "less", ""].entries()) {
      await writeFile(join(root, "a"), content);
      await expect(packEntries(entries, hash, join(folder, `changed-${index}`))).rejects.toThrow("changed while being read");
    }
    await rm(join(root, "a"));
    await symlink("../outside", join(root, "a"));
    await expect(packEntries(entries, hash, join(folder, "link"))).rejects.toThrow("ELOOP");
  });

  test("an abort ends reading and packing", async () => {
    await write({ a: "x" });
    const { entries } = await laidOut(["a"]);
    const signal = AbortSignal.abort(new Error("enough"));
    await expect(hashEntries(entries, { signal })).rejects.toThrow("enough");
    await expect(packEntries(entries, await hashEntries(entries), join(folder, "aborted"), { signal })).rejects.toThrow(/abort/i);
  });

  test("sockets and pipes are left out, and named", async () => {
    await write({ "sub/a": "" });
    const server = createServer();
    await new Promise<void>((resolve) => server.listen(join(root, "sub/socket"), resolve));
    await promisify(execFile)("mkfifo", [join(root, "sub/pipe")]);
    const context = await ContextFolder.open(root);
    expect((await layOut(copyOf(["sub"]), context)).entries.map(({ path }) => path)).toEqual(["sub", "sub/a"]);
    expect(context.skipped).toEqual(["sub/pipe", "sub/socket"]);
    await new Promise((resolve) => server.close(resolve));
  });
});

test("ADD of what Docker would unpack is refused, of anything else not", async () => {
  await write({ "a.txt": "text", "text.gz": "" });
  await writeFile(join(root, "text.gz"), gzipSync("text"));
  await promisify(execFile)("tar", ["-cf", join(root, "plain"), "-C", root, "a.txt"]);
  await writeFile(join(root, "packed"), gzipSync(await readFile(join(root, "plain"))));
  await writeFile(join(root, "x.xz"), Buffer.from("fd377a585a000000", "hex"));
  for (const name of ["plain", "packed", "x.xz"]) {
    await expect(laidOut([name], "/x", { isAdd: true })).rejects.toThrow(`ADD would unpack ${name}, which is not supported; COPY it`);
    expect(await laidOut([name], "/x")).toMatchObject({ paths: [name] });
  }
  expect(await laidOut(["a.txt", "text.gz"], "/x/", { isAdd: true })).toMatchObject({ paths: ["a.txt", "text.gz"] });
});

test("a folder that is not there, or none, is no context", async () => {
  await write({ file: "" });
  await expect(ContextFolder.open(join(root, "nothing"))).rejects.toThrow("there is no folder");
  await expect(ContextFolder.open(join(root, "file"))).rejects.toThrow("is not a folder");
});
