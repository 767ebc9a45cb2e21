import { createHash, randomBytes } from "node:crypto";
import { Readable } from "node:stream";

import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import { RoostError } from "./errors.ts";
import type { SandboxHandle } from "./sandbox-handle.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let sandbox: SandboxHandle;
beforeEach(async () => {
  api = await FakeApi.start();
  const roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
  sandbox = roost.sandbox((await roost.sandboxes.create()).id);
});
afterEach(() => api[Symbol.asyncDispose]());

test("output comes as events, byte for byte, and ends with the exit code", async () => {
  const stream = await sandbox.execStream("sh", { args: ["-c", "printf '\\377\\000out'; printf err >&2; exit 9"] });
  expect(stream.pid).toBeGreaterThan(0);
  const output = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
  let exitCode: number | undefined;
  for await (const event of stream) {
    if (event.type === "exit") exitCode = event.exitCode;
    else output[event.type] = Buffer.concat([output[event.type], event.data]);
  }
  expect(output.stdout).toEqual(Buffer.from([0xff, 0x00, ...Buffer.from("out")]));
  expect(output.stderr.toString()).toBe("err");
  expect(exitCode).toBe(9);
});

test("standard input of 20 MB arrives whole while output is read", async () => {
  const data = randomBytes(20_000_000);
  const stream = await sandbox.execStream("cat", { stdin: true });
  const writing = stream.writeAll(Readable.from([data], { objectMode: false }));
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const event of stream) {
    if (event.type !== "stdout") continue;
    hash.update(event.data);
    bytes += event.data.length;
  }
  await writing;
  expect(bytes).toBe(data.length);
  expect(hash.digest("hex")).toBe(createHash("sha256").update(data).digest("hex"));
});

test("100 MB of output arrive whole and in order", async () => {
  const stream = await sandbox.execStream("sh", { args: ["-c", "seq 1 14000000 | head -c 100000000"] });
  const hash = createHash("sha256");
  let bytes = 0;
  for await (const event of stream) {
    if (event.type !== "stdout") continue;
    hash.update(event.data);
    bytes += event.data.length;
  }
  const here = await sandbox.exec("sh", { args: ["-c", "seq 1 14000000 | head -c 100000000 | sha256sum"] });
  expect(bytes).toBe(100_000_000);
  expect(hash.digest("hex")).toBe(here.stdout.slice(0, 64));
});

test("a reader that does not read holds the sender back", async () => {
  let sent = 0;
  api.handlers.socket.execStream = ({ socket }) => {
    socket.on("message", () => {
      socket.send(JSON.stringify({ type: "start", pid: 1, tag: "t" }));
      const chunk = JSON.stringify({ type: "stdout", data: Buffer.alloc(96 * 1024).toString("base64") });
      const pump = () => {
        if (socket.readyState !== socket.OPEN || sent >= 400) return;
        if (socket.bufferedAmount < 256 * 1024) {
          socket.send(chunk);
          sent += 1;
        }
        setTimeout(pump, 0);
      };
      pump();
    });
  };
  const stream = await sandbox.execStream("flood");
  const events = stream[Symbol.asyncIterator]();
  await events.next();
  // wait until the sender has stood still: it got no room for a long row of its own tries
  let still = 0;
  for (let last = -1; still < 30; still = sent === last ? still + 1 : 0) {
    last = sent;
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  expect(sent).toBeLessThan(200); // 400 chunks are 50 MB; socket buffers and 1 MiB of unread messages are far less
  const before = sent;
  for (let count = 0; count < 100; count += 1) await events.next();
  await expect.poll(() => sent).toBeGreaterThan(before);
  stream.close();
});

test("stop ends the command; a signal of the caller ends the stream", async () => {
  const stopped = await sandbox.execStream("sleep", { args: ["100"] });
  await stopped.stop();
  expect(await stopped.exit()).toBe(143);

  const abort = new AbortController();
  const aborted = await sandbox.execStream("sleep", { args: ["100"], signal: abort.signal });
  setTimeout(() => abort.abort(new Error("enough")), 10);
  await expect(aborted.exit()).rejects.toThrow("enough");
});

test("a lost connection, a server's error and nonsense are RoostErrors", async () => {
  const lost = await sandbox.execStream("sleep", { args: ["100"] });
  const exit = lost.exit();
  api.dropConnections();
  await expect(exit).rejects.toMatchObject({ code: "connection_lost" });
  await expect(lost.write("x")).rejects.toBeInstanceOf(RoostError);

  await expect(sandbox.execStream("/no/such/program")).rejects.toMatchObject({ code: "request_invalid" });

  api.handlers.socket.execStream = ({ socket }) => {
    socket.on("message", () => {
      socket.send(JSON.stringify({ type: "start", pid: 1, tag: "t" }));
      socket.send(JSON.stringify({ type: "stdout", data: 7 }));
    });
  };
  await expect((await sandbox.execStream("true")).exit()).rejects.toMatchObject({ code: "answer_invalid" });
});

test("files go up and down unchanged, as a whole or in part", async () => {
  const data = randomBytes(5_000_000);
  const entry = await sandbox.files.write("deep/er/data.bin", Readable.from([data.subarray(0, 1_000_000), data.subarray(1_000_000)]));
  expect(entry).toMatchObject({ name: "data.bin", size: data.length });
  const { stream, size } = await sandbox.files.read("deep/er/data.bin");
  expect(size).toBe(data.length);
  const chunks: Buffer[] = [];
  for await (const chunk of stream as AsyncIterable<Buffer>) chunks.push(chunk);
  expect(Buffer.concat(chunks).equals(data)).toBe(true);
  expect((await sandbox.files.readBytes("deep/er/data.bin", { start: 10, end: 19 })).equals(data.subarray(10, 20))).toBe(true);

  await sandbox.files.write("text", "grüße");
  expect(await sandbox.files.readText("text")).toBe("grüße");
  await sandbox.files.move("text", "moved");
  expect(await sandbox.files.exists("text")).toBe(false);
  expect((await sandbox.files.list(".")).map((item) => item.name).sort()).toEqual(["deep", "moved"]);
  await sandbox.files.remove("moved");
  await sandbox.files.makeFolder("new/one");
  expect((await sandbox.files.stat("new/one")).type).toBe("directory");
  await expect(sandbox.files.read("moved")).rejects.toMatchObject({ code: "file_not_found" });
});

test("a download that breaks off fails rather than end early", async () => {
  api.handlers.http.readFile = ({ response }) => {
    response.writeHead(200, { "content-length": 1000 });
    response.write("some");
    setTimeout(() => response.destroy(), 10);
  };
  await expect(sandbox.files.readBytes("x")).rejects.toMatchObject({ code: "connection_lost" });
});

test("an upload the server refuses early stops and tells why", async () => {
  api.handlers.http.writeFile = ({ response }) => {
    response.writeHead(507, { "content-type": "application/json" });
    response.end(JSON.stringify({ error: { code: "guest_disk_full", message: "no space left" } }));
  };
  let produced = 0;
  const endless = async function* () {
    for (;;) {
      produced += 1;
      yield Buffer.alloc(64 * 1024);
    }
  };
  await expect(sandbox.files.write("big", endless())).rejects.toMatchObject({ code: "guest_disk_full" });
  const seen = produced;
  await new Promise((resolve) => setImmediate(resolve));
  expect(produced - seen).toBeLessThan(3);
});

test("a failing source fails the upload and leaves the client usable", async () => {
  const broken = async function* () {
    yield Buffer.from("a");
    throw new Error("disk is broken");
  };
  await expect(sandbox.files.write("x", broken())).rejects.toThrow("disk is broken");
  await sandbox.files.write("y", "fine");
});

test("a terminal echoes, resizes, is left and found again", async () => {
  const first = await sandbox.pty({ cmd: "/bin/sh", cols: 100, rows: 30, tag: "work" });
  expect(first.tag).toBe("work");
  await first.write("stty size\n");
  expect(await readUntil(first, "30 100")).toContain("30 100");
  first.close();

  const second = await sandbox.ptyConnect("work");
  expect(second.pid).toBe(first.pid);
  await second.resize(120, 40);
  await second.write("stty size; exit 5\n");
  let text = "";
  let exitCode: number | undefined;
  for await (const event of second) {
    if (event.type === "output") text += event.data.toString();
    if (event.type === "exit") exitCode = event.exitCode;
  }
  expect(text).toContain("40 120");
  expect(exitCode).toBe(5);
  await expect(sandbox.ptyConnect("work")).rejects.toMatchObject({ code: "process_not_found" });
});

test("a watch reports changes and ends when closed", async () => {
  api.handlers.socket.watchFiles = ({ socket, query }) => {
    socket.send(JSON.stringify({ type: "start" }));
    socket.send(JSON.stringify({ type: "event", event: "create", name: `${query.get("path")}:${query.get("recursive")}` }));
  };
  const watch = await sandbox.files.watch("/tmp", { recursive: true });
  for await (const change of watch) {
    expect(change).toMatchObject({ event: "create", name: "/tmp:true" });
    break;
  }
});

async function readUntil(session: AsyncIterable<{ type: string; data?: Buffer }>, expected: string): Promise<string> {
  let text = "";
  const events = session[Symbol.asyncIterator]();
  while (!text.includes(expected)) {
    const { value, done } = await events.next();
    if (done === true) throw new Error(`the terminal ended; seen: ${text}`);
    text += (value as { data?: Buffer }).data?.toString() ?? "";
  }
  return text;
}
