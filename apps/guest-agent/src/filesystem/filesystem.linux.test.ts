import { execFileSync, spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { chmod, chown, lstat, mkdir, readFile, readdir, readlink, stat, symlink, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { Code, ConnectError } from "@connectrpc/connect";
import { Cleanup, MiB } from "@roost/kit";
import { EventType } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { startFileServer, type TestFileServer, type TestAnswer } from "./test-file-server.ts";

/** As the user of the base template, so that what belongs to them and what to root differ. */
const [uid, gid] = [1000, 1001];

let agent: TestFileServer;
let cleanup: Cleanup;
beforeEach(async () => {
  cleanup = new Cleanup();
  agent = await startFileServer({ uid, gid });
  await chown(agent.home, uid, gid);
});
afterEach(async () => {
  await cleanup.run();
  const mounts = await readFile("/proc/self/mountinfo", "utf8");
  expect(mounts.includes(agent.home), "mounts left by this test").toBe(false);
  await agent[Symbol.asyncDispose]();
});

const at = (...parts: string[]) => join(agent.home, ...parts);
const octets = { "content-type": "application/octet-stream" };
const put = async (path: string, body: Buffer | string, headers: Record<string, string> = {}) =>
  agent.call("POST", `/files?path=${encodeURIComponent(path)}`, { headers: { ...octets, ...headers }, body });
const json = (answer: TestAnswer): unknown => JSON.parse(answer.body.toString());
const owners = async (...paths: string[]) =>
  Promise.all(paths.map(async (path) => lstat(at(path)).then((stats) => [stats.uid, stats.gid])));

async function codeOf(promise: Promise<unknown>): Promise<string> {
  return promise.then(
    () => "no error",
    (error: unknown) => Code[ConnectError.from(error).code] ?? "",
  );
}

/** A file system of its own at `name`, gone after the test. */
async function mountTmpfs(name: string, options: string): Promise<string> {
  await mkdir(at(name));
  execFileSync("mount", ["-t", "tmpfs", "-o", options, "tmpfs", at(name)]);
  cleanup.defer("unmount", () => execFileSync("umount", [at(name)]));
  return at(name);
}

describe("ownership", () => {
  test("what is made belongs to the acting user: files, folders, and the folders above them", async () => {
    await put("a/b/file", "x");
    await agent.client.makeDir({ path: "c/d" });
    await writeFile(at("rootfile"), "");
    await agent.client.move({ source: at("rootfile"), destination: at("e/moved") });
    expect(await owners("a", "a/b", "a/b/file", "c", "c/d", "e")).toEqual(Array.from({ length: 6 }, () => [uid, gid]));
    expect(await owners("e/moved")).toEqual([[0, 0]]); // a move changes no owner
    const { entry } = await agent.client.stat({ path: "a/b/file" });
    expect(entry).toMatchObject({ owner: "tester", group: "testers" });
    expect((await agent.client.stat({ path: "e/moved" })).entry).toMatchObject({ owner: "0", group: "0" });
  });

  test("folders that were there keep their owner; a file that is replaced gets the acting user as owner", async () => {
    await mkdir(at("rootfolder"));
    await writeFile(at("rootfolder/f"), "old", { mode: 0o600 });
    await put("rootfolder/f", "new");
    expect(await owners("rootfolder", "rootfolder/f")).toEqual([
      [0, 0],
      [uid, gid],
    ]);
    expect((await stat(at("rootfolder/f"))).mode & 0o777).toBe(0o600);
  });

  test("setuid does not survive a replacement", async () => {
    await writeFile(at("tool"), "old");
    await chmod(at("tool"), 0o4755);
    await put("tool", "new");
    expect((await stat(at("tool"))).mode & 0o7777).toBe(0o755);
  });

  test("another user, by name in the query or by Basic, owns what they make", async () => {
    await agent.call("POST", `/files?path=${encodeURIComponent(at("by-query"))}&username=other`, { headers: octets, body: "x" });
    const basic = { authorization: `Basic ${Buffer.from("other:").toString("base64")}` };
    await agent.client.makeDir({ path: at("by-basic") }, { headers: basic });
    await agent.call("POST", `/files?path=${encodeURIComponent(at("by-header"))}`, { headers: { ...octets, ...basic }, body: "x" });
    expect(await owners("by-query", "by-basic", "by-header")).toEqual([
      [4242, 4243],
      [4242, 4243],
      [4242, 4243],
    ]);
  });
});

describe("metadata", () => {
  const metadata = { "x-metadata-author": "mish", "x-metadata-Purpose": "test" };

  test("goes with an upload, comes back in the answer, in Stat, in listings and in events", async () => {
    const { watcherId } = await agent.client.createWatcher({ path: agent.home, includeEntry: true });
    const answer = await put("f", "x", metadata);
    expect(json(answer)).toEqual([{ name: "f", path: at("f"), type: "file", metadata: { author: "mish", purpose: "test" } }]);
    expect((await agent.client.stat({ path: "f" })).entry?.metadata).toEqual({ author: "mish", purpose: "test" });
    expect((await agent.client.listDir({ path: "~" })).entries.map((entry) => entry.metadata)).toEqual([
      { author: "mish", purpose: "test" },
    ]);
    const { events } = await agent.client.getWatcherEvents({ watcherId });
    expect(events.map((event) => [event.type, event.entry?.metadata["author"]])).toEqual([
      [EventType.CREATE, "mish"],
      [EventType.WRITE, "mish"],
    ]);
  });

  test("is cleared by an upload without it, and replaced by one with other", async () => {
    await put("f", "x", metadata);
    await put("f", "y", { "x-metadata-author": "other" });
    expect((await agent.client.stat({ path: "f" })).entry?.metadata).toEqual({ author: "other" });
    await put("f", "z");
    expect((await agent.client.stat({ path: "f" })).entry?.metadata).toEqual({});
  });

  test("other user attributes survive a replacement, and are no metadata", async () => {
    await put("f", "x");
    python(
      `import os; os.setxattr(${JSON.stringify(at("f"))}, 'user.mine', b'kept'); os.setxattr(${JSON.stringify(at("f"))}, 'user.e2b.', b'nokey')`,
    );
    await put("f", "y");
    expect(
      python(
        `import os; print(os.getxattr(${JSON.stringify(at("f"))}, 'user.mine').decode(), len(os.listxattr(${JSON.stringify(at("f"))})))`,
      ),
    ).toBe("kept 1");
    expect((await agent.client.stat({ path: "f" })).entry?.metadata).toEqual({});
  });

  test("written by a program of the guest it is seen too, also on a folder, and with any bytes", async () => {
    await put("f", "x");
    await mkdir(at("folder"));
    for (const name of ["f", "folder"])
      python(`import os; os.setxattr(${JSON.stringify(at(name))}, 'user.e2b.key', bytes([0x61, 0xff, 0, 0x62]))`);
    for (const name of ["f", "folder"]) expect((await agent.client.stat({ path: name })).entry?.metadata).toEqual({ key: "a\u{FFFD}\0b" });
  });

  test("of a link is none: its target's is the target's", async () => {
    await put("f", "x", metadata);
    await symlink("f", at("link"));
    expect((await agent.client.stat({ path: "link" })).entry).toMatchObject({ metadata: {}, symlinkTarget: at("f") });
  });

  test("as much as is allowed, in as many keys", async () => {
    const many = Object.fromEntries(Array.from({ length: 20 }, (_, index) => [`x-metadata-key${index}`, "v".repeat(150)]));
    expect((await put("f", "x", many)).status).toBe(200);
    expect(Object.keys((await agent.client.stat({ path: "f" })).entry?.metadata ?? {}).length).toBe(20);
  });

  function python(program: string): string {
    return execFileSync("python3", ["-c", program], { encoding: "utf8" }).trim();
  }
});

describe("a full disk", () => {
  const problem = (answer: TestAnswer) => json(answer) as { code: number; message: string };

  test("is a 507 that leaves nothing behind, and the old file as it was", async () => {
    const disk = await mountTmpfs("small", "size=1m");
    await writeFile(join(disk, "f"), "old");
    for (const path of ["new/folder/f", "f"]) {
      const answer = await put(join(disk, path), Buffer.alloc(4 * MiB, 1));
      expect(problem(answer), path).toMatchObject({ code: 507, message: expect.stringContaining("not enough disk space available") });
    }
    expect(await readdir(disk, { recursive: true })).toEqual(["f"]);
    expect(await readFile(join(disk, "f"), "utf8")).toBe("old");
    expect((await put(join(disk, "fits"), "x")).status).toBe(200);
  });

  test("stops an archive bomb", async () => {
    const disk = await mountTmpfs("small", "size=1m");
    const bomb = gzipSync(Buffer.alloc(64 * MiB));
    expect(bomb.length).toBeLessThan(100_000);
    expect((await put(join(disk, "bomb"), bomb, { "content-encoding": "gzip" })).status).toBe(507);
    expect(await readdir(disk)).toEqual([]);
  });

  test("without inodes is resource exhausted for folders, and a 507 for files", async () => {
    const disk = await mountTmpfs("small", "size=1m,nr_inodes=3");
    await mkdir(join(disk, "one"));
    await mkdir(join(disk, "two"));
    expect(await codeOf(agent.client.makeDir({ path: join(disk, "three") }))).toBe("ResourceExhausted");
    expect((await put(join(disk, "f"), "x")).status).toBe(507);
    expect((await readdir(disk)).sort()).toEqual(["one", "two"]);
  });

  test("in the middle of a compose keeps the parts", async () => {
    const disk = await mountTmpfs("small", "size=1m");
    await writeFile(join(disk, "part1"), Buffer.alloc(400_000));
    await writeFile(join(disk, "part2"), Buffer.alloc(400_000));
    const body = JSON.stringify({ source_paths: [join(disk, "part1"), join(disk, "part2")], destination: join(disk, "whole") });
    expect((await agent.call("POST", "/files/compose", { body })).status).toBe(507);
    expect((await readdir(disk)).sort()).toEqual(["part1", "part2"]);
  });
});

describe("mounts", () => {
  test("a move between file systems keeps content, owners, modes, times and links, and leaves nothing at the source", async () => {
    const disk = await mountTmpfs("other", "size=8m");
    await mkdir(join(disk, "tree/sub"), { recursive: true });
    await writeFile(join(disk, "tree/sub/f"), "content");
    await chmod(join(disk, "tree/sub/f"), 0o640);
    await chown(join(disk, "tree/sub/f"), 5, 6);
    await symlink("sub/f", join(disk, "tree/link"));
    const before = await lstat(join(disk, "tree/sub/f"));
    const { entry } = await agent.client.move({ source: join(disk, "tree"), destination: at("here/tree") });
    expect(entry?.path).toBe(at("here/tree"));
    const after = await lstat(at("here/tree/sub/f"));
    expect([after.uid, after.gid, after.mode]).toEqual([5, 6, before.mode]);
    expect(Math.abs(after.mtimeMs - before.mtimeMs)).toBeLessThan(2); // Node sets times to the millisecond
    expect(await readFile(at("here/tree/sub/f"), "utf8")).toBe("content");
    expect(await readlink(at("here/tree/link"))).toBe("sub/f");
    expect(await readdir(disk)).toEqual([]);
    expect(await readdir(at("here"))).toEqual(["tree"]);
  });

  test("a move that does not fit leaves the source whole and the destination empty", async () => {
    const disk = await mountTmpfs("other", "size=1m");
    await mkdir(at("tree"));
    await writeFile(at("tree/large"), Buffer.alloc(4 * MiB));
    expect(await codeOf(agent.client.move({ source: at("tree"), destination: join(disk, "new/tree") }))).toBe("ResourceExhausted");
    expect(await readdir(disk)).toEqual([]);
    expect((await stat(at("tree/large"))).size).toBe(4 * MiB);
  });

  test("a file that is a mount point of its own, as /etc/resolv.conf can be, is written in place", async () => {
    await writeFile(at("real"), "old");
    await writeFile(at("mounted"), "");
    execFileSync("mount", ["--bind", at("real"), at("mounted")]);
    cleanup.defer("unmount", () => execFileSync("umount", [at("mounted")]));
    expect((await put("mounted", "new")).status).toBe(200);
    expect(await readFile(at("real"), "utf8")).toBe("new");
    expect((await readdir(agent.home)).sort()).toEqual(["mounted", "real"]);
  });

  test("a read-only disk is a 403 and permission denied, and reading from it works", async () => {
    const disk = await mountTmpfs("readonly", "size=1m");
    await writeFile(join(disk, "f"), "content");
    execFileSync("mount", ["-o", "remount,ro", disk]);
    expect((await put(join(disk, "f"), "x")).status).toBe(403);
    expect(await codeOf(agent.client.makeDir({ path: join(disk, "d") }))).toBe("PermissionDenied");
    expect(await codeOf(agent.client.remove({ path: join(disk, "f") }))).toBe("PermissionDenied");
    expect((await agent.call("GET", `/files?path=${join(disk, "f")}`)).body.toString()).toBe("content");
  });

  test("a mount point is neither removed nor moved, and what is in it is told apart by its codes", async () => {
    const disk = await mountTmpfs("busy", "size=1m");
    expect(await codeOf(agent.client.remove({ path: disk }))).toBe("FailedPrecondition");
    expect(await codeOf(agent.client.move({ source: disk, destination: at("elsewhere") }))).toBe("FailedPrecondition");
  });

  test("a kernel setting can be written, as there is nothing to rename", async () => {
    const path = "/proc/self/comm";
    const before = await readFile(path, "utf8");
    cleanup.defer("restore the name", async () => writeFile(path, before.trim()));
    expect((await put(path, "renamed")).status).toBe(200);
    expect((await agent.call("GET", `/files?path=${path}`)).body.toString()).toBe("renamed\n");
  });
});

describe("a network mount whose daemon does not answer", () => {
  let reason: string | undefined;
  beforeEach(async ({ skip }) => {
    await mkdir(at("net/mount"), { recursive: true });
    reason = mountDeadFuse(at("net/mount"));
    if (reason !== undefined) skip(`no FUSE on this machine: ${reason}`);
  });

  test("is refused for watching, by itself and below, without being asked anything", async () => {
    for (const path of ["net/mount", "net/mount/deep/er"]) {
      const error = await agent.client.createWatcher({ path: at(path) }).catch((failure: unknown) => ConnectError.from(failure));
      expect(error, path).toMatchObject({ code: Code.InvalidArgument, rawMessage: expect.stringContaining("network filesystem") });
    }
  });

  test("below a watched folder it is left out, and the rest is watched", async () => {
    const { watcherId } = await agent.client.createWatcher({ path: at("net"), recursive: true });
    await mkdir(at("net/sub"));
    await writeFile(at("net/sub/f"), "");
    const seen: string[] = [];
    while (!seen.includes("sub/f")) seen.push(...(await agent.client.getWatcherEvents({ watcherId })).events.map((event) => event.name));
    expect(seen).toEqual(["sub", "sub/f"]);
  });

  /** A FUSE mount without a daemon: every call on it waits until it is unmounted. The reason when there can be none. */
  function mountDeadFuse(folder: string): string | undefined {
    let device: number;
    try {
      device = openSync("/dev/fuse", "r+");
    } catch (error) {
      return (error as Error).message;
    }
    const options = "fd=3,rootmode=40000,user_id=0,group_id=0";
    const mounted = spawnSync("mount", ["-i", "-t", "fuse", "-o", options, "none", folder], {
      stdio: ["ignore", "ignore", "pipe", device],
      encoding: "utf8",
    });
    if (mounted.status !== 0) {
      closeSync(device);
      return mounted.stderr;
    }
    cleanup.defer("unmount", () => execFileSync("umount", ["-l", folder]));
    cleanup.defer("end the FUSE connection", () => closeSync(device));
    return undefined;
  }
});

test("a sparse file of terabytes is told its size, and a range of it is sent", async () => {
  await writeFile(at("sparse"), "");
  await truncate(at("sparse"), 2 ** 42);
  expect((await agent.client.stat({ path: "sparse" })).entry?.size).toBe(2n ** 42n);
  const answer = await agent.call("GET", "/files?path=sparse", { headers: { range: "bytes=4398046511100-" } });
  expect([answer.status, answer.headers["content-range"], answer.body.length]).toEqual([
    206,
    "bytes 4398046511100-4398046511103/4398046511104",
    4,
  ]);
});
