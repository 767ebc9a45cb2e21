import { chmod, lstat, mkdir, readFile, readdir, readlink, rm, stat, symlink, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { Code, ConnectError } from "@connectrpc/connect";
import { FileType, type EntryInfo } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { OwnerNames } from "./entry.ts";
import { listFolder } from "./list-folder.ts";
import { startFileServer, type TestFileServer } from "./test-file-server.ts";

let agent: TestFileServer;
beforeEach(async () => {
  agent = await startFileServer();
});
afterEach(async () => agent[Symbol.asyncDispose]());

const at = (...parts: string[]) => join(agent.home, ...parts);

async function codeOf(promise: Promise<unknown>): Promise<string> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => ConnectError.from(reason),
  );
  return error === undefined ? "no error" : (Code[error.code] ?? "");
}

async function entryOf(path: string): Promise<EntryInfo> {
  const { entry } = await agent.client.stat({ path });
  if (entry === undefined) throw new Error("no entry");
  return entry;
}

describe("Stat", () => {
  test("tells of a file what ls would", async () => {
    await writeFile(at("hello.txt"), "hello");
    await chmod(at("hello.txt"), 0o640);
    await utimes(at("hello.txt"), new Date("2026-01-02T03:04:05.250Z"), new Date("2026-01-02T03:04:05.250Z"));
    const entry = await entryOf(at("hello.txt"));
    expect(entry).toMatchObject({
      name: "hello.txt",
      path: at("hello.txt"),
      type: FileType.FILE,
      size: 5n,
      mode: 0o640,
      permissions: "-rw-r-----",
      owner: "tester",
      group: "testers",
      metadata: {},
    });
    expect(entry.modifiedTime).toMatchObject({ seconds: 1767323045n, nanos: 250_000_000 });
    expect(entry.symlinkTarget).toBeUndefined();
  });

  test("a folder, by a relative path and by ~", async () => {
    await mkdir(at("sub"));
    for (const path of ["sub", "./sub", "~/sub", "x/../sub", `${agent.home}//sub/`]) {
      expect(await entryOf(path), path).toMatchObject({
        name: "sub",
        path: at("sub"),
        type: FileType.DIRECTORY,
        permissions: "drwxr-xr-x",
      });
    }
    expect((await entryOf("~")).path).toBe(agent.home);
  });

  test("a link has the type and mode of its target, its own permission text, and the target at its end", async () => {
    await writeFile(at("target"), "12345");
    await chmod(at("target"), 0o600);
    await symlink("target", at("middle"));
    await symlink(at("middle"), at("link"));
    expect(await entryOf(at("link"))).toMatchObject({
      name: "link",
      path: at("link"),
      type: FileType.FILE,
      mode: 0o600,
      permissions: "lrwxrwxrwx",
      size: BigInt(at("middle").length),
      symlinkTarget: at("target"),
    });
  });

  test("a link that leads nowhere, and one that leads to itself, are of no type and have no target", async () => {
    await symlink("missing", at("dangling"));
    await symlink("cycle", at("cycle"));
    for (const name of ["dangling", "cycle"]) {
      const entry = await entryOf(at(name));
      expect(entry).toMatchObject({ type: FileType.UNSPECIFIED, mode: 0, permissions: "lrwxrwxrwx" });
      expect(entry.symlinkTarget).toBeUndefined();
    }
  });

  test("what is neither file nor folder is of no type", async () => {
    expect(await entryOf("/dev/null")).toMatchObject({ type: FileType.UNSPECIFIED, permissions: expect.stringMatching(/^c/) });
  });

  test("a missing path, and one through a file, are not found", async () => {
    await writeFile(at("file"), "");
    expect(await codeOf(agent.client.stat({ path: at("missing") }))).toBe("NotFound");
    expect(await codeOf(agent.client.stat({ path: at("file", "below") }))).toBe("NotFound");
  });

  test("paths that can be none are invalid arguments", async () => {
    const paths = ["a\0b", "~other/x", "/" + "x/".repeat(3000), at("y".repeat(256))];
    for (const path of paths) expect(await codeOf(agent.client.stat({ path })), path.slice(0, 20)).toBe("InvalidArgument");
  });

  test("an unknown user is unauthenticated, and a known one decides where ~ is", async () => {
    const as = (name: string) => ({ headers: { authorization: `Basic ${Buffer.from(`${name}:`).toString("base64")}` } });
    expect(await codeOf(agent.client.stat({ path: "~" }, as("nobody-here")))).toBe("Unauthenticated");
    expect((await agent.client.stat({ path: "~" }, as("other"))).entry?.path).toBe(join(agent.home, ".."));
  });

  test("an id without a name is shown as its number", async () => {
    expect((await entryOf("/")).owner).toBe(process.getuid?.() === 0 ? "tester" : "0");
  });
});

describe("ListDir", () => {
  const names = async (path: string, depth: number) => (await agent.client.listDir({ path, depth })).entries.map((entry) => entry.path);

  beforeEach(async () => {
    await mkdir(at("b/c/d"), { recursive: true });
    await mkdir(at("b.x"));
    await writeFile(at("a"), "");
    await writeFile(at("b", "z"), "");
    await writeFile(at("b", "c", "deep"), "");
    await symlink("b", at("link"));
  });

  test("one level is the default, in lexical order", async () => {
    expect(await names(agent.home, 0)).toEqual(["a", "b", "b.x", "link"].map((name) => at(name)));
    expect(await names(agent.home, 1)).toEqual(await names(agent.home, 0));
  });

  test("more levels are walked depth first, and links are not entered", async () => {
    expect(await names(agent.home, 2)).toEqual(["a", "b", "b/c", "b/z", "b.x", "link"].map((name) => at(name)));
    expect(await names(agent.home, 9)).toEqual(["a", "b", "b/c", "b/c/d", "b/c/deep", "b/z", "b.x", "link"].map((name) => at(name)));
  });

  test("a folder named by a link is listed under the link's name", async () => {
    expect(await names(at("link"), 2)).toEqual(["c", "c/d", "c/deep", "z"].map((name) => at("link", name)));
  });

  test("a file is an invalid argument, a missing folder not found, a cycle a failed precondition", async () => {
    await symlink("cycle", at("cycle"));
    expect(await codeOf(agent.client.listDir({ path: at("a") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.listDir({ path: at("missing") }))).toBe("NotFound");
    expect(await codeOf(agent.client.listDir({ path: at("cycle") }))).toBe("FailedPrecondition");
  });

  test("a depth above the limit is refused", async () => {
    expect(await codeOf(agent.client.listDir({ path: agent.home, depth: 65 }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.listDir({ path: agent.home, depth: 64 }))).toBe("no error");
  });

  test("an empty folder has no entries, and no path is the home", async () => {
    expect(await names(at("b.x"), 1)).toEqual([]);
    expect(await names("", 1)).toEqual(await names(agent.home, 1));
  });

  test("names that are not UTF-8 are listed with replacement characters, entered and removed", async () => {
    const odd = Buffer.concat([Buffer.from(`${agent.home}/odd-`), Buffer.from([0xff, 0xfe])]);
    await mkdir(odd);
    await writeFile(Buffer.concat([odd, Buffer.from("/in-\u{e9}")]), "x");
    const entries = (await agent.client.listDir({ path: agent.home, depth: 2 })).entries;
    expect(entries.filter((entry) => entry.name.includes("\u{FFFD}")).map((entry) => entry.type)).toEqual([FileType.DIRECTORY]);
    expect(entries.find((entry) => entry.name === "in-\u{e9}")).toMatchObject({ type: FileType.FILE, size: 1n });
    await agent.client.remove({ path: agent.home });
    expect(await codeOf(agent.client.stat({ path: agent.home }))).toBe("NotFound");
  });

  test("a folder of thousands is listed whole and in order", async () => {
    await mkdir(at("many"));
    const made = Array.from({ length: 3000 }, (_, index) => `f${String(index).padStart(5, "0")}`);
    for (let start = 0; start < made.length; start += 500) {
      await Promise.all(made.slice(start, start + 500).map(async (name) => writeFile(at("many", name), "")));
    }
    const { entries } = await agent.client.listDir({ path: at("many"), depth: 1 });
    expect(entries.map((entry) => entry.name)).toEqual(made);
  });

  test("more entries than allowed are refused, not cut off", async () => {
    const list = async (entriesMax: number) =>
      listFolder(agent.home, 9, new OwnerNames(agent.context.users), new AbortController().signal, entriesMax);
    expect((await list(8)).length).toBe(8);
    expect(await codeOf(list(7))).toBe("ResourceExhausted");
  });

  test("a caller that has gone stops the walk", async () => {
    const signal = AbortSignal.abort(new ConnectError("gone", Code.Canceled));
    expect(await codeOf(listFolder(agent.home, 9, new OwnerNames(agent.context.users), signal))).toBe("Canceled");
  });

  test("/proc, where processes come and go, does not fail", async () => {
    const { entries } = await agent.client.listDir({ path: "/proc", depth: 2 });
    expect(entries.length).toBeGreaterThan(100);
  });
});

describe("MakeDir", () => {
  test("makes what is missing above, mode 0755 whatever the umask", async () => {
    const before = process.umask(0o077);
    try {
      const { entry } = await agent.client.makeDir({ path: at("x/y/z") });
      expect(entry).toMatchObject({ name: "z", path: at("x/y/z"), type: FileType.DIRECTORY, permissions: "drwxr-xr-x" });
      expect((await stat(at("x"))).mode & 0o777).toBe(0o755);
    } finally {
      process.umask(before);
    }
  });

  test("an existing folder is already there; a file is in the way; a file above is too", async () => {
    await mkdir(at("folder"));
    await writeFile(at("file"), "");
    await symlink("folder", at("link"));
    expect(await codeOf(agent.client.makeDir({ path: at("folder") }))).toBe("AlreadyExists");
    expect(await codeOf(agent.client.makeDir({ path: at("link") }))).toBe("AlreadyExists");
    expect(await codeOf(agent.client.makeDir({ path: at("file") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.makeDir({ path: at("file/below") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.makeDir({ path: "" }))).toBe("InvalidArgument");
  });

  test("two at once make it once, and no caller sees an internal error", async () => {
    const codes = await Promise.all(Array.from({ length: 8 }, async () => codeOf(agent.client.makeDir({ path: at("race/deep/er") }))));
    expect((await stat(at("race/deep/er"))).isDirectory()).toBe(true);
    expect(codes.filter((code) => code !== "no error" && code !== "AlreadyExists")).toEqual([]);
  });
});

describe("Move", () => {
  test("renames, makes the folders above, and tells the new entry", async () => {
    await writeFile(at("from"), "content");
    const { entry } = await agent.client.move({ source: at("from"), destination: at("new/place/to") });
    expect(entry).toMatchObject({ name: "to", path: at("new/place/to"), type: FileType.FILE, size: 7n });
    expect(await readFile(at("new/place/to"), "utf8")).toBe("content");
    expect(await readdir(agent.home)).toEqual(["new"]);
  });

  test("a file takes the place of a file; a folder does not take a full one's, nor a file's", async () => {
    await writeFile(at("a"), "a");
    await writeFile(at("b"), "b");
    await mkdir(at("folder"));
    await mkdir(at("full/inside"), { recursive: true });
    await agent.client.move({ source: at("a"), destination: at("b") });
    expect(await readFile(at("b"), "utf8")).toBe("a");
    expect(await codeOf(agent.client.move({ source: at("folder"), destination: at("full") }))).toBe("FailedPrecondition");
    expect(await codeOf(agent.client.move({ source: at("folder"), destination: at("b") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.move({ source: at("b"), destination: at("folder") }))).toBe("InvalidArgument");
  });

  test("a link is moved, not what it leads to", async () => {
    await writeFile(at("target"), "");
    await symlink("target", at("link"));
    await agent.client.move({ source: at("link"), destination: at("moved") });
    expect(await readlink(at("moved"))).toBe("target");
  });

  test("a missing source is not found and leaves no folder behind", async () => {
    expect(await codeOf(agent.client.move({ source: at("missing"), destination: at("new/place") }))).toBe("NotFound");
    expect(await readdir(agent.home)).toEqual([]);
  });

  test("a folder does not go into itself, and the root goes nowhere", async () => {
    await mkdir(at("folder"));
    expect(await codeOf(agent.client.move({ source: at("folder"), destination: at("folder/sub/x") }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.move({ source: "/", destination: at("x") }))).toBe("InvalidArgument");
    expect(await readdir(at("folder"))).toEqual([]);
  });
});

describe("Remove", () => {
  test("removes a tree, with links but not what they lead to; missing is fine", async () => {
    await mkdir(at("tree/a/b"), { recursive: true });
    await mkdir(at("kept"));
    await writeFile(at("kept/file"), "");
    await writeFile(at("tree/a/b/file"), "");
    await symlink(at("kept"), at("tree/link"));
    await agent.client.remove({ path: at("tree") });
    expect(await readdir(agent.home)).toEqual(["kept"]);
    expect(await readdir(at("kept"))).toEqual(["file"]);
    await agent.client.remove({ path: at("tree") });
    await agent.client.remove({ path: at("kept/file/below") });
    expect(await readdir(at("kept"))).toEqual(["file"]);
  });

  test("a link to a folder is removed, the folder is not", async () => {
    await mkdir(at("folder"));
    await symlink("folder", at("link"));
    await agent.client.remove({ path: at("link") });
    expect(await readdir(agent.home)).toEqual(["folder"]);
  });

  test("neither the root nor nothing at all is removed", async () => {
    expect(await codeOf(agent.client.remove({ path: "/" }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.remove({ path: "/tmp/../.." }))).toBe("InvalidArgument");
    expect(await codeOf(agent.client.remove({ path: "" }))).toBe("InvalidArgument");
    expect((await lstat(agent.home)).isDirectory()).toBe(true);
  });

  test("a folder of thousands goes whole", async () => {
    await mkdir(at("many"));
    await Promise.all(Array.from({ length: 1500 }, async (_, index) => writeFile(at("many", String(index)), "")));
    await agent.client.remove({ path: at("many") });
    expect(await readdir(agent.home)).toEqual([]);
  });
});

test("whatever the path, every method answers with an entry or an error of the caller", async () => {
  const random = new SeededRandom();
  const pieces = [
    "/",
    "//",
    ".",
    "a",
    "b",
    "~",
    "~x",
    "\0",
    "\n",
    "\u{FFFD}",
    "😀",
    "\\",
    "%2e",
    "é".repeat(130),
    "n".repeat(256),
    " ",
    "-rf",
    "*",
  ] as const;
  // Never "..": these paths are removed and moved, and must stay below the home.
  const hostile = () =>
    Array.from({ length: random.integer(8) }, () => random.pick(pieces))
      .join("")
      .replaceAll(/\.{2,}/g, ".");
  const allowed = ["no error", "NotFound", "InvalidArgument", "AlreadyExists", "FailedPrecondition"];
  await writeFile(at("a"), "");
  await mkdir(at("b"));
  for (let round = 0; round < 100; round += 1) {
    const path = `${agent.home}/${hostile()}`;
    const other = `${agent.home}/${hostile()}`;
    const outcomes = {
      stat: await codeOf(agent.client.stat({ path: hostile() + random.pick(["", "..", "/../.."]) })),
      list: await codeOf(agent.client.listDir({ path, depth: random.integer(70) })),
      make: await codeOf(agent.client.makeDir({ path })),
      move: await codeOf(agent.client.move({ source: path, destination: other })),
      watch: await codeOf(
        agent.client
          .createWatcher({ path: other, recursive: true })
          .then(async ({ watcherId }) => agent.client.removeWatcher({ watcherId })),
      ),
      remove: await codeOf(agent.client.remove({ path: other })),
    };
    for (const [method, code] of Object.entries(outcomes)) {
      expect(allowed, `SEED=${random.seed} round ${round}: ${method} ${JSON.stringify([path, other])}: ${code}`).toContain(code);
    }
    if ((await codeOf(agent.client.stat({ path: agent.home }))) !== "no error") await mkdir(agent.home); // moved or removed whole
  }
});

test("the binary codec works as the JSON one", async () => {
  await using binary = await startFileServer({ binary: true });
  await writeFile(join(binary.home, "f"), "123");
  expect((await binary.client.stat({ path: "f" })).entry).toMatchObject({ name: "f", size: 3n });
  await rm(join(binary.home, "f"));
});

test("what is on the wire has the shape the SDKs read", async () => {
  await writeFile(at("f"), "123");
  await symlink("f", at("l"));
  const answer = await agent.call("POST", "/filesystem.Filesystem/Stat", {
    headers: { "content-type": "application/json", "connect-protocol-version": "1" },
    body: JSON.stringify({ path: "l" }),
  });
  expect(JSON.parse(answer.body.toString())).toEqual({
    entry: {
      name: "l",
      type: "FILE_TYPE_FILE",
      path: at("l"),
      size: "1",
      mode: 0o644,
      permissions: "lrwxrwxrwx",
      owner: "tester",
      group: "testers",
      modifiedTime: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z$/),
      symlinkTarget: at("f"),
    },
  });
  const missing = await agent.call("POST", "/filesystem.Filesystem/Stat", {
    headers: { "content-type": "application/json" },
    body: '{"path":"/none"}',
  });
  expect(missing.status).toBe(404);
  expect(JSON.parse(missing.body.toString())).toMatchObject({ code: "not_found" });
});
