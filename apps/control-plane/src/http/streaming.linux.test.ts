import { createHash } from "node:crypto";
import { request, type IncomingMessage } from "node:http";

import { execOutputBytesMax } from "@roost/contract";
import { MiB, poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { idleConnectionMs } from "../guest/tunnel-agent.ts";
import { World } from "../testing/world.ts";

/** Much data, slow readers, floods: what would fill the memory of a control plane without back-pressure. */

let world: World;
let id: string;
let files: string;
beforeAll(async () => {
  world = await World.start();
  ({ id } = await world.createSandbox());
  files = `/v1/sandboxes/${id}/files`;
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
afterEach(() => {
  world.guest.misbehaviour.start = undefined;
});

const sh = (script: string, more: object = {}) => world.exec(id, { cmd: "sh", args: ["-c", script], ...more });
const shell = (script: string, more: object = {}) => ({ type: "start", cmd: "sh", args: ["-c", script], ...more });
const open = (path: string) => world.socket(`/v1/sandboxes/${id}/${path}`).open();
const at = (path: string) => `${files}?path=${encodeURIComponent(path)}`;
const put = (path: string, body: unknown) => world.request("PUT", at(path), body);

/** `total` bytes of a repeated random piece, made as they are read. */
function source(total: number): { readonly stream: ReadableStream<Uint8Array>; readonly digest: () => string } {
  const piece = new SeededRandom(3).bytes(256 * 1024);
  const hash = createHash("sha256");
  let left = total;
  const stream = new ReadableStream<Uint8Array>({
    pull(controller) {
      const chunk = left >= piece.length ? piece : piece.subarray(0, left);
      if (chunk.length === 0) return controller.close();
      left -= chunk.length;
      hash.update(chunk);
      controller.enqueue(chunk);
    },
  });
  return { stream, digest: () => hash.digest("hex") };
}

test("150 MiB up and down, byte-exact, in constant memory", { timeout: 120_000 }, async () => {
  const total = 150 * MiB;
  const { stream, digest } = source(total);
  let peak = 0;
  const base = process.memoryUsage.rss();
  const sampler = setInterval(() => (peak = Math.max(peak, process.memoryUsage.rss() - base)), 20);
  try {
    expect((await put("/big", stream)).status).toBe(200);
    const read = await world.request("GET", at("/big"));
    expect(read.headers.get("content-length")).toBe(String(total));
    const hash = createHash("sha256");
    for await (const chunk of read.body ?? []) hash.update(chunk as Uint8Array);
    expect(hash.digest("hex")).toBe(digest());
  } finally {
    clearInterval(sampler);
  }
  // Client, control plane and guest share this process; the file as a whole would be 150 MiB more than once.
  expect(peak).toBeLessThan(120 * MiB);
});

test("a reader who stops holds the guest back", async () => {
  await put("/slow", source(64 * MiB).stream);
  const { port } = new URL(world.url);
  const answer = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ port, path: at("/slow"), headers: { "x-api-key": world.key } }, resolve)
      .on("error", reject)
      .end();
  });
  const sent = async () =>
    Number(/roost_file_bytes_total\{direction="down"\} (\d+)/.exec(await (await world.request("GET", "/metrics")).text())?.[1]);
  answer.pause();
  let last = -1;
  await poll({ what: "a stand-still", timeoutMs: 30_000, intervalMs: 300 }, async () => {
    const now = await sent();
    const isStill = now === last;
    last = now;
    return isStill ? true : undefined;
  });
  const started = await sent();
  expect(started).toBeGreaterThan(0);
  let bytes = 0;
  for await (const chunk of answer as AsyncIterable<Buffer>) bytes += chunk.length;
  expect(bytes).toBe(64 * MiB);
});

test("a client that does not read holds the command back, and misses nothing", { timeout: 60_000 }, async () => {
  const socket = await open("exec/stream");
  const total = 60 * 1024 * 1024;
  socket.send(shell(`head -c ${total} /dev/zero | tr '\\0' x; echo written >&2`));
  await socket.until("start");
  socket.raw.pause();
  const pid = Number(socket.messages[0]?.["pid"]);
  const before = process.memoryUsage().rss;
  // Without back-pressure the command would end, having written everything.
  await new Promise((resolve) => setTimeout(resolve, 1_000));
  expect(world.guest.runningPids).toContain(pid);
  expect(process.memoryUsage().rss - before).toBeLessThan(100 * 1024 * 1024);
  socket.raw.resume();
  await socket.until("exit", 30_000);
  expect(socket.text("stdout")).toHaveLength(total);
});

test("megabytes of input arrive whole, and their end", { timeout: 60_000 }, async () => {
  const socket = await open("exec/stream");
  socket.send(shell("sha256sum; echo done >&2", { stdin: true, encoding: "base64" }));
  const random = new SeededRandom(7);
  const piece = Buffer.from(random.bytes(64 * 1024));
  const hash = createHash("sha256");
  await socket.until("start");
  for (let index = 0; index < 100; index += 1) {
    hash.update(piece);
    socket.send({ type: "stdin", data: piece.toString("base64") });
  }
  socket.send({ type: "stdin_close" });
  await socket.until("exit", 30_000);
  expect(Buffer.from(socket.text("stdout"), "base64").toString()).toContain(hash.digest("hex"));
});

test("output up to the limit arrives whole", { timeout: 60_000 }, async () => {
  const { body } = await sh(`head -c ${execOutputBytesMax} /dev/zero | tr '\\0' x`);
  expect(body.stdout).toHaveLength(execOutputBytesMax);
});

test("an open connection is activity: a background command holds one, an idle sandbox none", { timeout: 30_000 }, async () => {
  const { body } = await world.exec(id, { cmd: "sleep", args: ["60"], background: true });
  const count = () => world.host.openTunnels.size;
  await expect.poll(count, { timeout: idleConnectionMs + 5_000 }).toBe(1);
  await world.request("DELETE", `/v1/sandboxes/${id}/processes/${(body as unknown as { pid: number }).pid}`);
  await expect.poll(count, { timeout: idleConnectionMs + 5_000 }).toBe(0);
});

test("a guest that floods without end is stopped at the limit", async () => {
  world.guest.misbehaviour.start = async function* () {
    yield { event: { event: { case: "start", value: { pid: 1 } } } };
    for (;;) yield { event: { event: { case: "data", value: { output: { case: "stdout", value: new Uint8Array(256 * 1024) } } } } };
  };
  try {
    expect(await world.exec(id, { cmd: "x" })).toMatchObject({ status: 413, body: { error: { code: "output_too_large" } } });
    await expect.poll(() => world.host.openTunnels.size, { timeout: idleConnectionMs + 5_000 }).toBe(0);
  } finally {
    world.guest.misbehaviour.start = undefined;
  }
});
