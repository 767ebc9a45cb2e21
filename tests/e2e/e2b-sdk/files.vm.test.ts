import { createHash, randomBytes } from "node:crypto";
import { get } from "node:http";
import { gunzipSync } from "node:zlib";

import {
  AuthenticationError,
  FileNotFoundError,
  FilesystemEventType,
  FileType,
  InvalidArgumentError,
  NotEnoughSpaceError,
  Sandbox,
  TimeoutError,
  type FilesystemEvent,
} from "e2b";
import { describe, expect, test } from "vitest";

import { accessTokenOf, api, failureOf, output, ownSandbox, toPort, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";

useE2b();
const sandbox = useE2bSandbox();
const files = () => sandbox().files;

/** Where the guest agent listens. */
const agentPort = 49983;
const digest = (bytes: Uint8Array | string) => createHash("sha256").update(bytes).digest("hex");
const arrayBufferOf = (bytes: Uint8Array): ArrayBuffer => Uint8Array.from(bytes).buffer;
const streamOf = (...chunks: Uint8Array[]) =>
  new ReadableStream<Uint8Array>({
    start(controller) {
      for (const chunk of chunks) controller.enqueue(chunk);
      controller.close();
    },
  });

describe("write and read", () => {
  test("text, as a new file of the user", async () => {
    expect(await files().write("note.txt", "žluťoučký 🐎\n")).toMatchObject({
      name: "note.txt",
      path: "/home/user/note.txt",
      type: "file",
    });
    expect(await files().read("note.txt")).toBe("žluťoučký 🐎\n");
    expect(await output(sandbox(), "stat -c '%U %G %a' note.txt")).toBe("user user 644");
  });

  test("a shorter text replaces a longer one", async () => {
    await files().write("replaced", "a long text");
    await files().write("replaced", "short");
    expect(await files().read("replaced")).toBe("short");
  });

  test("nothing, in every format", async () => {
    await files().write("empty", "");
    expect(await files().read("empty")).toBe("");
    expect((await files().read("empty", { format: "bytes" })).length).toBe(0);
    expect((await files().read("empty", { format: "blob" })).size).toBe(0);
    expect(await new Response(await files().read("empty", { format: "stream" })).text()).toBe("");
  });

  const bytes = randomBytes(300_000);
  test.each([
    ["an ArrayBuffer", () => arrayBufferOf(bytes), {}],
    ["a Blob", () => new Blob([arrayBufferOf(bytes)]), {}],
    ["a stream", () => streamOf(bytes.subarray(0, 1), bytes.subarray(1, 200_000), bytes.subarray(200_000)), {}],
    ["a stream as a form", () => streamOf(bytes), { useOctetStream: false }],
    ["an ArrayBuffer as it is", () => arrayBufferOf(bytes), { useOctetStream: true }],
    ["an ArrayBuffer, compressed", () => arrayBufferOf(bytes), { gzip: true }],
    ["a stream, compressed", () => streamOf(bytes.subarray(0, 100_000), bytes.subarray(100_000)), { gzip: true }],
  ] as const)("bytes from %s", async (what, data, options) => {
    const path = `bytes/${what.replaceAll(/\W+/g, "-")}`;
    expect(await files().write(path, data(), options)).toMatchObject({ path: `/home/user/${path}` });
    expect((await output(sandbox(), `sha256sum ${path}`)).split(" ")[0]).toBe(digest(bytes));
  });

  test.each(["bytes", "blob", "stream"] as const)("bytes as %s", async (format) => {
    await files().write("to-read", arrayBufferOf(bytes));
    const content = await files().read("to-read", { format: format as "stream" });
    const read = Buffer.from(await new Response(content).arrayBuffer());
    expect(digest(read)).toBe(digest(bytes));
  });

  test("compressed on the way back", async () => {
    const text = "the same line\n".repeat(10_000);
    await files().write("compressible", text);
    expect(await files().read("compressible", { gzip: true })).toBe(text);
    const url = await sandbox().downloadUrl("compressible");
    const raw = await rawGet(url, { "accept-encoding": "gzip" });
    expect(raw.headers["content-encoding"]).toBe("gzip");
    expect(raw.body.length).toBeLessThan(text.length / 10);
    expect(gunzipSync(raw.body).toString()).toBe(text);
  });

  test("eight MiB in both directions", async () => {
    const large = randomBytes(8 * 1024 * 1024);
    await files().write("large", arrayBufferOf(large));
    expect(digest(await files().read("large", { format: "bytes" }))).toBe(digest(large));
    await files().remove("large");
  });

  test("several files in one call; none at all", async () => {
    const written = await files().writeFiles([
      { path: "several/a", data: "A" },
      { path: "/tmp/several-b", data: new Blob(["B"]) },
      { path: "several/deep/c", data: arrayBufferOf(Buffer.from("C")) },
    ]);
    expect(written.map(({ path }) => path)).toEqual(["/home/user/several/a", "/tmp/several-b", "/home/user/several/deep/c"]);
    expect(await Promise.all(written.map(({ path }) => files().read(path)))).toEqual(["A", "B", "C"]);
    expect(await files().write([])).toEqual([]);
    const streamed = await files().write([
      { path: "several/s1", data: streamOf(Buffer.from("1")) },
      { path: "several/s2", data: streamOf(Buffer.from("2")) },
    ]);
    expect(streamed.map(({ name }) => name).toSorted()).toEqual(["s1", "s2"]);
  });

  test("folders on the way are made, and belong to the user", async () => {
    await files().write("new/folder/file", "x");
    expect(await output(sandbox(), "stat -c '%U %a' new new/folder")).toBe("user 755\nuser 755");
  });

  test.each(["with space", "ünï-文.txt", "percent%20#?&.txt", "quote'\".txt", "-dash", ".hidden"])("the name %j", async (name) => {
    await files().write(`names/${name}`, name);
    expect(await files().read(`names/${name}`)).toBe(name);
    expect((await files().list("names")).map((entry) => entry.name)).toContain(name);
  });

  test("relative paths are the acting user's", async () => {
    expect(await files().write("mine", "x", { user: "root" })).toMatchObject({ path: "/root/mine" });
    expect(await output(sandbox(), "stat -c %U /root/mine", { user: "root" })).toBe("root");
    expect(await files().read("~/mine", { user: "root" })).toBe("x");
  });

  test("what does not exist, is a folder, or belongs to nobody known", async () => {
    await expect(files().read("nowhere")).rejects.toBeInstanceOf(FileNotFoundError);
    await expect(files().read("/etc")).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(files().write("/etc", "x")).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(files().read("note.txt", { user: "nobody-here" })).rejects.toBeInstanceOf(AuthenticationError);
    await expect(files().write("x", "x", { user: "nobody-here" })).rejects.toBeInstanceOf(AuthenticationError);
  });

  test("a disk that is full has an error of its own", async () => {
    await output(sandbox(), "mkdir -p /mnt/small && mount -t tmpfs -o size=256k,mode=1777 none /mnt/small", { user: "root" });
    await expect(files().write("/mnt/small/large", "x".repeat(1_000_000))).rejects.toBeInstanceOf(NotEnoughSpaceError);
    expect(await files().exists("/mnt/small/large")).toBe(false);
    await output(sandbox(), "umount /mnt/small", { user: "root" });
  });

  test("many at once", async () => {
    const names = Array.from({ length: 20 }, (_, index) => `many/${index}`);
    await Promise.all(names.map((name) => files().write(name, name)));
    expect(await Promise.all(names.map((name) => files().read(name)))).toEqual(names);
  });

  test("a read that is given up", async () => {
    await output(sandbox(), "head -c 30000000 /dev/zero > zeros");
    const stream = await files().read("zeros", { format: "stream" });
    const reader = stream.getReader();
    expect((await reader.read()).done).toBe(false);
    await reader.cancel();
    expect(await files().exists("zeros")).toBe(true);
    await files().remove("zeros");
  });
});

describe("metadata of files", () => {
  test("is written with a file and read wherever the file is described", async () => {
    const metadata = { source: "upload", owner: "team a" };
    expect((await files().write("tagged/file", "x", { metadata })).metadata).toEqual(metadata);
    expect((await files().getInfo("tagged/file")).metadata).toEqual(metadata);
    expect((await files().list("tagged"))[0]?.metadata).toEqual(metadata);
    expect((await files().rename("tagged/file", "tagged/renamed")).metadata).toEqual(metadata);
    expect((await files().getInfo("note.txt")).metadata).toBeUndefined();
  });

  test("keys become lower case; a write without clears them", async () => {
    await files().write("cleared", "x", { metadata: { KEY: "Value" } });
    expect((await files().getInfo("cleared")).metadata).toEqual({ key: "Value" });
    await files().write("cleared", "y");
    expect((await files().getInfo("cleared")).metadata).toBeUndefined();
  });

  test("is an extended attribute, also one that somebody else set", async () => {
    await files().write("attribute", "x", { metadata: { given: "1" } });
    const python = "import os; os.setxattr('attribute', 'user.e2b.set', b'2'); print(os.getxattr('attribute', 'user.e2b.given').decode())";
    expect(await output(sandbox(), `python3 -c "${python}"`)).toBe("1");
    expect((await files().getInfo("attribute")).metadata).toEqual({ given: "1", set: "2" });
  });

  test("also with a stream, and for each of several files", async () => {
    const [first, second] = await files().write(
      [
        { path: "both/1", data: streamOf(Buffer.from("1")) },
        { path: "both/2", data: "2" },
      ],
      { metadata: { batch: "7" } },
    );
    expect([first?.metadata, second?.metadata]).toEqual([{ batch: "7" }, { batch: "7" }]);
  });

  test("that cannot be sent is refused", async () => {
    await expect(files().write("refused", "x", { metadata: { "not a key": "x" } })).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(files().write("refused", "x", { metadata: { k: "x".repeat(5_000) } })).rejects.toBeInstanceOf(InvalidArgumentError);
    expect(await files().exists("refused")).toBe(false);
  });
});

describe("folders and entries", () => {
  test("a listing has each entry with everything the types promise", async () => {
    await output(
      sandbox(),
      "mkdir -p tree/sub/deep && echo hello > tree/a && echo x > tree/sub/b && touch tree/sub/deep/c && ln -s a tree/link && chmod 640 tree/a",
    );
    const entries = await files().list("tree");
    expect(entries.map(({ name, type }) => `${name} ${type}`)).toEqual(["a file", "link file", "sub dir"]);
    const [file, link] = entries;
    expect(file).toMatchObject({
      path: "/home/user/tree/a",
      type: FileType.FILE,
      size: 6,
      mode: 0o640,
      permissions: "-rw-r-----",
      owner: "user",
      group: "user",
    });
    expect(file?.modifiedTime?.getTime()).toBeGreaterThan(Date.parse("2020-01-01"));
    expect(link?.symlinkTarget).toBe("/home/user/tree/a");
  });

  test("as deep as it is asked for", async () => {
    const names = async (depth: number) => (await files().list("tree", { depth })).map(({ path }) => path.replace("/home/user/tree/", ""));
    expect(await names(1)).toEqual(["a", "link", "sub"]);
    expect(await names(2)).toEqual(["a", "link", "sub", "sub/b", "sub/deep"]);
    expect(await names(9)).toEqual(["a", "link", "sub", "sub/b", "sub/deep", "sub/deep/c"]);
    await expect(files().list("tree", { depth: 0 })).rejects.toBeInstanceOf(InvalidArgumentError);
  });

  test("an empty folder, the home itself, a file, nothing", async () => {
    await files().makeDir("bare");
    expect(await files().list("bare")).toEqual([]);
    expect((await files().list(".")).map(({ name }) => name)).toContain("tree");
    await expect(files().list("tree/a")).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(files().list("nowhere")).rejects.toBeInstanceOf(FileNotFoundError);
  });

  test("a folder is made once, with those on the way", async () => {
    expect(await files().makeDir("made/deep/er")).toBe(true);
    expect(await files().makeDir("made/deep/er")).toBe(false);
    expect(await files().getInfo("made/deep/er")).toMatchObject({ type: FileType.DIR, permissions: "drwxr-xr-x", owner: "user" });
  });

  test("another user's folder", async () => {
    await files().makeDir("/srv/roots", { user: "root" });
    expect((await files().getInfo("/srv/roots")).owner).toBe("root");
  });

  test("rename moves files and folders, over what is there, into new folders", async () => {
    await files().write("old/name", "moved");
    await files().write("taken", "gone");
    expect(await files().rename("old/name", "taken")).toMatchObject({ path: "/home/user/taken", name: "taken" });
    expect(await files().read("taken")).toBe("moved");
    await files().rename("old", "brand/new/place");
    expect(await files().exists("brand/new/place")).toBe(true);
    expect(await files().exists("old")).toBe(false);
    await expect(files().rename("nowhere", "x")).rejects.toBeInstanceOf(FileNotFoundError);
  });

  test("remove takes files, whole folders, and what is not there", async () => {
    await files().write("removed/deep/file", "x");
    await files().remove("removed/deep/file");
    expect(await files().exists("removed/deep/file")).toBe(false);
    await files().remove("removed");
    expect(await files().exists("removed")).toBe(false);
    await files().remove("removed");
  });

  test("a link is removed, not what it leads to", async () => {
    await output(sandbox(), "mkdir -p target && touch target/stays && ln -s target leads");
    await files().remove("leads");
    expect(await files().exists("target/stays")).toBe(true);
  });

  test("exists for files, folders, and neither", async () => {
    expect(await files().exists("tree/a")).toBe(true);
    expect(await files().exists("tree")).toBe(true);
    expect(await files().exists("tree/nothing")).toBe(false);
    await expect(files().exists("tree", { user: "nobody-here" })).rejects.toBeInstanceOf(AuthenticationError);
  });

  test("info of a folder, a link, a broken link, a device, nothing", async () => {
    await output(sandbox(), "ln -s nowhere-at-all broken");
    expect(await files().getInfo("tree")).toMatchObject({ name: "tree", type: FileType.DIR });
    expect(await files().getInfo("tree/link")).toMatchObject({ type: FileType.FILE, symlinkTarget: "/home/user/tree/a" });
    const broken = await files().getInfo("broken");
    expect(broken.name).toBe("broken");
    expect(broken.type).toBeUndefined(); // of a link it is the target's
    expect((await files().getInfo("/etc/passwd")).owner).toBe("root");
    await expect(files().getInfo("nothing")).rejects.toBeInstanceOf(FileNotFoundError);
  });
});

describe("watch", () => {
  async function watched(folder: string, options: Parameters<Sandbox["files"]["watchDir"]>[2] = {}) {
    await files().makeDir(folder);
    const events: FilesystemEvent[] = [];
    const handle = await files().watchDir(folder, (event) => void events.push(event), { timeoutMs: 0, ...options });
    return {
      handle,
      events,
      sees: (type: FilesystemEventType, name: string) =>
        until(`${type} ${name}`, () => {
          const found = events.find((event) => event.type === type && event.name === name);
          if (found === undefined) throw new Error(JSON.stringify(events));
          return found;
        }),
    };
  }

  test("tells of everything that happens in a folder", async () => {
    const { handle, sees } = await watched("watched");
    await files().write("watched/new", "x");
    await sees(FilesystemEventType.CREATE, "new");
    await output(sandbox(), "echo more >> watched/new");
    await sees(FilesystemEventType.WRITE, "new");
    await output(sandbox(), "chmod 600 watched/new");
    await sees(FilesystemEventType.CHMOD, "new");
    await files().rename("watched/new", "watched/newer");
    await sees(FilesystemEventType.RENAME, "new");
    await files().remove("watched/newer");
    await sees(FilesystemEventType.REMOVE, "newer");
    await handle.stop();
  });

  test("below it only when asked", async () => {
    const flat = await watched("flat");
    const deep = await watched("deep", { recursive: true });
    for (const folder of ["flat", "deep"]) {
      await files().makeDir(`${folder}/sub`);
      await until("the folder is seen", () => [flat, deep].some(({ events }) => events.some(({ name }) => name === "sub")));
      await output(sandbox(), `sleep 0.5; touch ${folder}/sub/file ${folder}/last`);
    }
    await deep.sees(FilesystemEventType.CREATE, "sub/file");
    await flat.sees(FilesystemEventType.CREATE, "last");
    expect(flat.events.map(({ name }) => name)).not.toContain("sub/file");
    await Promise.all([flat.handle.stop(), deep.handle.stop()]);
  });

  test("with what the entry is, when asked", async () => {
    const { handle, sees } = await watched("described", { includeEntry: true });
    await files().write("described/file", "12345");
    const { entry } = await sees(FilesystemEventType.CREATE, "file");
    expect(entry).toMatchObject({ name: "file", path: "/home/user/described/file", type: FileType.FILE, owner: "user" });
    await handle.stop();
  });

  test("ends when it is told to, and says so once", async () => {
    let exits = 0;
    const { handle, events } = await watched("ended", { onExit: () => void (exits += 1) });
    await handle.stop();
    await until("its end", () => exits === 1);
    await files().write("ended/after", "x");
    await output(sandbox(), "sleep 0.3");
    expect(events).toEqual([]);
    expect(exits).toBe(1);
  });

  test("ends with an error when its time is over", async () => {
    let why: Error | undefined;
    await watched("timed", { timeoutMs: 1_000, onExit: (error) => void (why = error) });
    expect(await until("its end", () => why)).toBeInstanceOf(TimeoutError);
  });

  test("of a file, of nothing", async () => {
    await files().write("a-file", "x");
    await expect(files().watchDir("a-file", () => undefined)).rejects.toBeInstanceOf(InvalidArgumentError);
    await expect(files().watchDir("nowhere", () => undefined)).rejects.toBeInstanceOf(FileNotFoundError);
  });
});

describe("signed URLs", () => {
  const text = async (url: string, init: RequestInit = {}) => {
    const answer = await fetch(url, { ...init, signal: AbortSignal.timeout(30_000) });
    return { status: answer.status, body: await answer.text() };
  };
  const json = async (url: string, init: RequestInit = {}) => {
    const { status, body } = await text(url, init);
    return { status, body: JSON.parse(body) as unknown };
  };
  const form = (name: string, content: string) => {
    const data = new FormData();
    data.append("file", new Blob([content]), name);
    return { method: "POST", body: data };
  };

  test("a download needs nothing but the URL", async () => {
    await files().write("shared file.txt", "for you");
    const url = await sandbox().downloadUrl("shared file.txt");
    expect(url).not.toContain(sandbox().sandboxId);
    expect(await text(url)).toEqual({ status: 200, body: "for you" });
  });

  test("for another user's file", async () => {
    await files().write("roots-own", "root's", { user: "root" });
    expect(await text(await sandbox().downloadUrl("roots-own", { user: "root" }))).toEqual({ status: 200, body: "root's" });
  });

  test("for a time", async () => {
    await files().write("timed.txt", "in time");
    expect(await text(await sandbox().downloadUrl("timed.txt", { useSignatureExpiration: 120 }))).toEqual({ status: 200, body: "in time" });
  });

  test("too late: 401 in the SDK's words", async () => {
    const url = await sandbox().downloadUrl("timed.txt", { useSignatureExpiration: -60 });
    expect(await json(url)).toEqual({ status: 401, body: { code: 401, message: "signature is already expired" } });
  });

  test.each([
    ["another path", (url: URL) => url.searchParams.set("path", "/etc/passwd")],
    ["another user", (url: URL) => url.searchParams.set("username", "root")],
    ["a later end", (url: URL) => url.searchParams.set("signature_expiration", "9999999999")],
    ["another signature", (url: URL) => url.searchParams.set("signature", `v1_${"A".repeat(43)}`)],
    ["a short signature", (url: URL) => url.searchParams.set("signature", "v1_")],
  ])("%s: 401 in the SDK's words", async (_what, change) => {
    const url = new URL(await sandbox().downloadUrl("timed.txt", { useSignatureExpiration: 120 }));
    change(url);
    expect(await json(url.toString())).toEqual({ status: 401, body: { code: 401, message: "invalid signature" } });
  });

  test("who may read may not write", async () => {
    const url = await sandbox().downloadUrl("timed.txt");
    expect((await text(url, form("timed.txt", "changed"))).status).toBe(401);
    expect(await files().read("timed.txt")).toBe("in time");
  });

  test("an upload to a path, to the name of the file, for a user, for a time", async () => {
    expect((await text(await sandbox().uploadUrl("up/one.txt"), form("ignored", "1"))).status).toBe(200);
    expect((await text(await sandbox().uploadUrl(), form("up-two.txt", "2"))).status).toBe(200);
    expect((await text(await sandbox().uploadUrl("three.txt", { user: "root" }), form("x", "3"))).status).toBe(200);
    expect((await text(await sandbox().uploadUrl("up/four.txt", { useSignatureExpiration: 60 }), form("x", "4"))).status).toBe(200);
    expect(await Promise.all(["up/one.txt", "up-two.txt", "/root/three.txt", "up/four.txt"].map((path) => files().read(path)))).toEqual([
      "1",
      "2",
      "3",
      "4",
    ]);
    const late = await sandbox().uploadUrl("late.txt", { useSignatureExpiration: -60 });
    expect(await json(late, form("x", "x"))).toEqual({ status: 401, body: { code: 401, message: "signature is already expired" } });
    expect(await files().exists("late.txt")).toBe(false);
  });

  test("of what does not exist: 404", async () => {
    expect((await json(await sandbox().downloadUrl("nowhere.txt"))).body).toMatchObject({ code: 404 });
  });

  test("a part of a file", async () => {
    await files().write("part.txt", "0123456789");
    const answer = await fetch(await sandbox().downloadUrl("part.txt"), { headers: { range: "bytes=2-4" } });
    expect([answer.status, await answer.text()]).toEqual([206, "234"]);
  });

  test("each opens the sandbox it was made for, and none when that has ended", async () => {
    await using other = await ownSandbox();
    await other.files.write("/tmp/which", "other");
    await files().write("/tmp/which", "shared");
    const url = await other.downloadUrl("/tmp/which");
    expect((await text(url)).body).toBe("other");
    expect((await text(await sandbox().downloadUrl("/tmp/which"))).body).toBe("shared");
    await other.kill();
    // First a sandbox that has ended, then a token that nobody has
    const after = await json(url);
    expect([401, 502]).toContain(after.status);
    expect(after.body).toMatchObject({ code: after.status });
  });
});

describe("without the sandbox's token", () => {
  const sandboxId = () => sandbox().sandboxId;

  test.each([
    ["no token", {}],
    ["a wrong token", { "x-access-token": "0".repeat(64) }],
  ])("%s: 401", async (_what, headers) => {
    const answer = await toPort(sandboxId(), agentPort, "/files?path=/etc/hostname", { headers });
    expect(answer.status).toBe(401);
    expect(await answer.json()).toMatchObject({ code: 401 });
    const rpc = await toPort(sandboxId(), agentPort, "/process.Process/List", {
      method: "POST",
      body: "{}",
      headers: { "content-type": "application/json", ...headers },
    });
    expect(rpc.status).toBe(401);
  });

  test("health may be asked by anybody", async () => {
    expect((await toPort(sandboxId(), agentPort, "/health")).status).toBe(204);
  });

  test.each(["/init", "/prepare", "/freeze", "/logs", "/upgrade"])("%s is not there, for nobody", async (path) => {
    for (const method of ["GET", "POST"]) {
      const answer = await toPort(sandboxId(), agentPort, path, { method, ...(method === "POST" ? { body: "{}" } : {}) });
      expect(answer.status, method).toBe(404);
    }
  });

  test("the token of one sandbox is nothing to another", async () => {
    await using other = await ownSandbox();
    const stolen = await failureOf(
      // The handle of one sandbox with the id of another: what a program gets that mixes two up
      new Sandbox({
        sandboxId: sandboxId(),
        envdVersion: "0.6.13",
        envdAccessToken: accessTokenOf(other),
      }).commands.run("id"),
    );
    expect(stolen).toBeInstanceOf(AuthenticationError);
  });

  test("a browser's preflight is answered", async () => {
    const answer = await toPort(sandboxId(), agentPort, "/files?path=/x", {
      method: "OPTIONS",
      headers: {
        origin: "https://app.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "x-access-token",
      },
    });
    expect(answer.status).toBe(204);
    expect(answer.headers.get("access-control-allow-origin")).toBe("*");
    expect(answer.headers.get("access-control-allow-headers")).toContain("x-access-token");
  });

  test("a sandbox that was made without `secure` lets its owner's old client in", async () => {
    const created = (await (await api("POST", "/sandboxes", { templateID: "base", timeout: 120, secure: false })).json()) as {
      sandboxID: string;
    };
    const answer = await toPort(created.sandboxID, agentPort, "/files?path=/etc/hostname");
    expect(answer.status).toBe(200);
    await Sandbox.kill(created.sandboxID);
  });
});

/** A GET whose answer is not decompressed on the way. */
async function rawGet(url: string, headers: Record<string, string>) {
  return new Promise<{ headers: Record<string, unknown>; body: Buffer }>((resolve, reject) => {
    const request = get(url, { headers }, (response) => {
      const chunks: Buffer[] = [];
      response.on("data", (chunk: Buffer) => chunks.push(chunk));
      response.on("end", () => resolve({ headers: response.headers, body: Buffer.concat(chunks) }));
      response.on("error", reject);
    });
    request.on("error", reject);
  });
}
