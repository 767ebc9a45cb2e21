import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { Readable } from "node:stream";
import { buffer } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";

import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import type { SandboxHandle } from "./sandbox-handle.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let sandbox: SandboxHandle;
const servers: Server[] = [];
beforeEach(async () => {
  api = await FakeApi.start();
  const roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
  sandbox = roost.sandbox((await roost.sandboxes.create()).id);
});
afterEach(async () => {
  await api[Symbol.asyncDispose]();
  for (const server of servers.splice(0)) server.close();
});

async function serve(onSocket: (socket: Socket) => void): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, onSocket).listen(0, "127.0.0.1");
  servers.push(server);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

const sha256 = (data: Uint8Array) => createHash("sha256").update(data).digest("hex");

test("20 MB go there and come back whole, though the answer ends after the question", async () => {
  const data = randomBytes(20_000_000);
  const tunnel = await sandbox.tunnel(await serve((socket) => void socket.pipe(socket)));
  const [answer] = await Promise.all([buffer(tunnel), pipeline(Readable.from([data], { objectMode: false }), tunnel)]);
  expect(sha256(answer)).toBe(sha256(data));
});

test("the server may answer only after it has read the end", async () => {
  const port = await serve((socket) => {
    let length = 0;
    socket.on("data", (bytes) => (length += bytes.length)).on("end", () => socket.end(`${length} bytes`));
  });
  const tunnel = await sandbox.tunnel(port);
  tunnel.end("question");
  expect(String(await buffer(tunnel))).toBe("8 bytes");
});

test("what was sent before the end is not lost when it is read late", async () => {
  const data = randomBytes(3_000_000);
  const tunnel = await sandbox.tunnel(await serve((socket) => void socket.resume().end(data)));
  tunnel.end();
  await once(tunnel, "finish");
  await new Promise((resolve) => setImmediate(resolve));
  expect(sha256(await buffer(tunnel))).toBe(sha256(data));
});

test("a port at which nothing listens is told", async () => {
  const port = await serve(() => undefined);
  const [server] = servers.splice(0);
  server?.close();
  await expect(sandbox.tunnel(port)).rejects.toMatchObject({ code: "guest_unreachable" });
});

test("a connection that breaks off does not look whole", async () => {
  const reset = await sandbox.tunnel(await serve((socket) => void socket.once("data", () => socket.resetAndDestroy())));
  reset.write("question");
  await expect(buffer(reset)).rejects.toMatchObject({ name: "RoostError" });
  const cut = await sandbox.tunnel(await serve((socket) => void socket.write("part")));
  await once(cut, "data");
  api.dropConnections();
  await expect(buffer(cut)).rejects.toMatchObject({ code: "connection_lost" });
});

test("a signal ends it with its reason", async () => {
  const abort = new AbortController();
  const port = await serve((socket) => void socket.pipe(socket));
  const tunnel = await sandbox.tunnel(port, { signal: abort.signal });
  abort.abort(new Error("enough"));
  await expect(buffer(tunnel)).rejects.toThrow("enough");
  await expect(sandbox.tunnel(port, { signal: abort.signal })).rejects.toThrow("enough");
});
