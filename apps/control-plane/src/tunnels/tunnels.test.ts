import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import {
  guestAgentPort,
  tunnelServerSchema,
  tunnelsPerSandboxMax,
  webSocketMessageBytesMax,
  type TunnelServerMessage,
} from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from "vitest";
import { WebSocket } from "ws";

import { systemCaller } from "../accounts/caller.ts";
import { World } from "../testing/world.ts";

/** Port of the sandbox behind which each test has its server */
const port = 8_000;

let world: World;
let id: string;
let server: Server | undefined;
const clients: TunnelClient[] = [];
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  ({ id } = await world.createSandbox());
});
afterEach(async () => {
  for (const client of clients.splice(0)) client.raw.terminate();
  server?.close();
  await expect.poll(() => world.host.openTunnels.size, { timeout: 10_000 }).toBe(0);
});

class TunnelClient {
  readonly raw: WebSocket;
  readonly messages: TunnelServerMessage[] = [];
  bytes = 0;
  text = "";
  readonly ended: Promise<number>;

  constructor(url: string, key = world.key) {
    this.raw = new WebSocket(url, { headers: { "x-api-key": key }, maxPayload: webSocketMessageBytesMax });
    this.raw.on("message", (data: Buffer, isBinary) => {
      if (!isBinary) return void this.messages.push(tunnelServerSchema.parse(JSON.parse(data.toString("utf8"))));
      this.bytes += data.length;
      this.text = (this.text + data.toString("latin1")).slice(-1_000);
    });
    this.raw.on("error", () => undefined);
    this.ended = new Promise((resolve) => this.raw.on("close", resolve));
    clients.push(this);
  }

  async hears(type: TunnelServerMessage["type"], timeoutMs = 20_000): Promise<TunnelServerMessage> {
    const what = `${type} of a tunnel`;
    return poll({ what, timeoutMs, intervalMs: 5 }, () => this.messages.find((message) => message.type === type));
  }
}

function open(to: number | string = port, key?: string): TunnelClient {
  return new TunnelClient(`${world.url.replace("http", "ws")}/v1/sandboxes/${id}/ports/${to}/tunnel`, key);
}

/** What listens in the sandbox. */
async function serve(onSocket: (socket: Socket) => void): Promise<void> {
  server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => undefined);
    onSocket(socket);
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  world.host.ports.set(port, (server.address() as AddressInfo).port);
}

test("bytes go both ways, each side ends for itself, and then the socket closes", async () => {
  await serve((socket) => {
    socket.write("welcome ");
    let question = "";
    socket.on("data", (chunk) => (question += chunk.toString()));
    socket.on("end", () => socket.end(question.toUpperCase()));
  });
  const client = open();
  await client.hears("start");
  client.raw.send(Buffer.from("some"));
  client.raw.send(Buffer.from("thing"));
  client.raw.send('{"type":"end"}');
  await client.hears("end");
  expect([client.text, await client.ended]).toEqual(["welcome SOMETHING", 1000]);
});

test("the sandbox may end first, and still hears the client, also what was under way when the client left", async () => {
  let heard = 0;
  let isOver = false;
  await serve((socket) => {
    socket.end("bye");
    socket.on("data", (chunk) => (heard += chunk.length)).on("end", () => (isOver = true));
  });
  const client = open();
  await client.hears("end");
  for (let index = 0; index < 20; index += 1) client.raw.send(Buffer.alloc(500_000));
  client.raw.send('{"type":"end"}');
  client.raw.close(1000);
  await poll({ what: "the end in the sandbox", timeoutMs: 20_000, intervalMs: 5 }, () => (isOver ? true : undefined));
  expect(heard).toBe(10_000_000);
});

test("who does not read holds the other side back, and nothing grows", { timeout: 60_000 }, async () => {
  let guest: Socket | undefined;
  let written = 0;
  await serve((socket) => {
    guest = socket.pause();
    const chunk = Buffer.alloc(256 * 1024);
    const write = () => {
      while (written < 64 * 1024 * 1024 && socket.write(chunk)) written += chunk.length;
    };
    socket.on("drain", write);
    write();
  });
  const client = open();
  await client.hears("start");
  client.raw.pause();
  let sent = 0;
  for (; sent < 64; sent += 1) client.raw.send(Buffer.alloc(1024 * 1024 - 16));
  // Neither side gets its 64 MiB through: kernels and one message's worth of buffers take some, and then it stands.
  const stands = async () => {
    const before = [written, client.raw.bufferedAmount];
    await new Promise((resolve) => setTimeout(resolve, 300));
    return before[0] === written && before[1] === client.raw.bufferedAmount ? before : undefined;
  };
  const [stopped = 0, unsent = 0] = await poll({ what: "both sides to stand", timeoutMs: 30_000, intervalMs: 5 }, stands);
  expect(stopped).toBeLessThan(48 * 1024 * 1024);
  expect(unsent).toBeGreaterThan(16 * 1024 * 1024);
  client.raw.resume();
  guest?.resume();
  await poll({ what: "all bytes", timeoutMs: 30_000 }, () =>
    client.bytes >= 64 * 1024 * 1024 && guest?.bytesRead === 64 * (1024 * 1024 - 16) ? true : undefined,
  );
});

test("a connection that breaks in the sandbox is told and does not look ended", async () => {
  await serve((socket) => void socket.once("data", () => socket.resetAndDestroy()));
  const client = open();
  await client.hears("start");
  client.raw.send(Buffer.from("x"));
  expect(await client.hears("error")).toMatchObject({ code: "guest_unreachable" });
  expect(await client.ended).toBe(1011);
  expect(client.messages.map(({ type }) => type)).toEqual(["start", "error"]);
});

test("a client that vanishes breaks the connection in the sandbox, where it does not look ended", async () => {
  let isBroken = false;
  await serve((socket) => void socket.on("error", () => (isBroken = true)).resume());
  const client = open();
  await client.hears("start");
  client.raw.terminate();
  await expect.poll(() => isBroken, { timeout: 10_000 }).toBe(true);
});

test("a VM that ends ends its tunnels", async () => {
  await serve(() => undefined);
  const client = open();
  await client.hears("start");
  world.host.change(id, SandboxState.FAILED);
  expect(await client.hears("error")).toMatchObject({ code: "guest_unreachable" });
});

test("ends with the key that it was asked for with", { timeout: 30_000 }, async () => {
  await serve(() => undefined);
  const { apiKeys } = world.controlPlane;
  const { key, row } = await apiKeys.create(systemCaller("default"), { name: "soon gone", scopes: null, expiresInSec: null });
  const client = open(port, key);
  await client.hears("start");
  await apiKeys.revoke(systemCaller("default"), row.id);
  expect(await client.hears("error")).toMatchObject({ code: "api_key_invalid" });
  await client.ended;
});

test("what is no port of a user's is refused: the guest agent's, none at all, one where nothing listens", async () => {
  for (const wrong of [guestAgentPort, 0, 65_536, "080", "x"]) {
    const client = open(wrong);
    const [, answer] = (await once(client.raw, "unexpected-response")) as [unknown, { statusCode: number }];
    expect([wrong, answer.statusCode]).toEqual([wrong, 400]);
  }
  world.host.ports.delete(port);
  const client = open();
  expect(await client.hears("error")).toMatchObject({ code: "guest_unreachable" });
  expect(await client.ended).toBe(1011);
});

test("what is not of the protocol ends it", async () => {
  await serve(() => undefined);
  for (const wrong of ["hello", '{"type":"start"}', Buffer.from("after")]) {
    const client = open();
    await client.hears("start");
    if (wrong instanceof Buffer) client.raw.send('{"type":"end"}');
    client.raw.send(wrong);
    expect(await client.hears("error")).toMatchObject({ code: "request_invalid" });
    expect(await client.ended).toBe(1008);
  }
});

test("one sandbox has a bounded number of them", { timeout: 120_000 }, async () => {
  await serve((socket) => void socket.pipe(socket));
  const all = Array.from({ length: tunnelsPerSandboxMax }, () => open());
  await Promise.all(all.map((client) => client.hears("start", 90_000)));
  expect(await open().hears("error")).toMatchObject({ code: "sandbox_busy" });
  all[0]?.raw.terminate();
  await expect.poll(() => world.host.openTunnels.size, { timeout: 10_000 }).toBeLessThan(tunnelsPerSandboxMax);
  const next = open();
  await next.hears("start");
});

test("wakes a paused sandbox that may be woken, and no other", { timeout: 30_000 }, async () => {
  await serve((socket) => void socket.pipe(socket));
  expect((await world.request("POST", `/v1/sandboxes/${id}/pause`)).status).toBe(200);
  expect(await open().hears("error")).toMatchObject({ code: "sandbox_wrong_state" });
  ({ id } = await world.createSandbox({ auto_resume: true }));
  expect((await world.request("POST", `/v1/sandboxes/${id}/pause`)).status).toBe(200);
  await open().hears("start");
});

test("a pause to come cuts tunnels in which nothing moves, and lets the others go on", { timeout: 30_000 }, async () => {
  await serve((socket) => void socket.pipe(socket));
  const [silent, busy] = [open(), open()];
  await Promise.all([silent.hears("start"), busy.hears("start")]);
  const working = setInterval(() => busy.raw.send(Buffer.from("x")), 20);
  try {
    world.host.change(id, SandboxState.PAUSING);
    expect(await silent.hears("error")).toMatchObject({ code: "guest_unreachable", data: expect.stringContaining("is paused") });
    const before = busy.bytes;
    await expect.poll(() => busy.bytes, { timeout: 10_000 }).toBeGreaterThan(before + 10);
  } finally {
    clearInterval(working);
  }
  expect(await busy.hears("error")).toMatchObject({ data: expect.stringContaining("is paused") });
});
