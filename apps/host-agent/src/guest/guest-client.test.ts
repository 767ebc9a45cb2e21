import { createServer, type Server, type Socket } from "node:net";

import { guestClockHeader, newSandboxId, newToken, noTemplateDefaults } from "@roost/contract";
import { poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, expect, test, vi } from "vitest";

import { dialTcp } from "../network/dial.ts";
import { openEgress } from "../network/egress-rules.ts";
import { GuestClient } from "./guest-client.ts";

let server: Server | undefined;
const sockets = new Set<Socket>();

afterEach(async () => {
  vi.useRealTimers();
  for (const socket of sockets) socket.destroy();
  sockets.clear();
  await new Promise((resolve) => {
    server?.close(resolve);
  });
});

/** A client whose guest does what `behave` says with each connection. */
async function clientOf(behave: (socket: Socket) => void): Promise<GuestClient> {
  server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("close", () => sockets.delete(socket));
    behave(socket);
  });
  await new Promise<void>((resolve) => {
    server?.listen(0, "127.0.0.1", resolve);
  });
  const { port } = server.address() as { port: number };
  return new GuestClient((_port, options) => dialTcp("127.0.0.1", port, options), newToken());
}

const answer = (body: string, head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n") =>
  `${head}content-length: ${body.length}\r\n\r\n${body}`;

test.each<[string, string | ((socket: Socket) => void)]>([
  ["closes at once", (socket) => socket.destroy()],
  ["speaks no HTTP", "220 mail.example.org ESMTP\r\n"],
  ["is cut off in its headers", "HTTP/1.1 200 OK\r\ncontent-le"],
  ["promises more than it sends", "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"],
  ["sends headers without end", `HTTP/1.1 200 OK\r\n${"x-filler: y\r\n".repeat(10_000)}`],
  ["sends a body that is too long", answer("[".repeat(200_000))],
  ["switches protocols", "HTTP/1.1 101 Switching Protocols\r\nupgrade: chaos\r\nconnection: upgrade\r\n\r\n"],
  ["answers with something that is not JSON", answer("<html>")],
  ["answers JSON of another shape", answer('{"mem_used":"lots"}')],
  ["answers with numbers that are none", answer('{"ts":null}')],
  ["says it is sorry", answer("{}", "HTTP/1.1 500 Internal\r\n")],
])("a guest that %s is an error and nothing worse", async (_what, behaviour) => {
  const client = await clientOf((socket) => {
    if (typeof behaviour === "string") socket.once("data", () => socket.end(behaviour));
    else behaviour(socket);
  });
  await expect(client.metrics()).rejects.toBeInstanceOf(Error);
});

test("a guest that accepts and stays silent, or dribbles, is ended by the signal", async () => {
  for (const behave of [
    () => undefined,
    (socket: Socket) => {
      socket.write("HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n");
      const timer = setInterval(() => socket.write(" "), 5);
      socket.on("close", () => clearInterval(timer));
    },
  ]) {
    const client = await clientOf(behave);
    const end = new AbortController();
    const asking = client.metrics(end.signal);
    setTimeout(() => end.abort(new Error("the VM ended")), 50);
    await expect(asking).rejects.toThrow("the VM ended");
    server?.close();
  }
});

test("random bytes never do more than fail", async () => {
  const random = new SeededRandom();
  const client = await clientOf((socket) => {
    socket.once("data", () => {
      const prefix = random.pick([
        "",
        "HTTP/1.1 200 OK\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No\r\n\r\n",
      ]);
      socket.end(Buffer.concat([Buffer.from(prefix), random.bytes(random.integer(2_000))]));
    });
  });
  for (let count = 0; count < 200; count += 1) {
    const outcome = await client.metrics().then(
      () => "answered",
      (error: unknown) => error,
    );
    expect(outcome, `SEED=${random.seed}`).toBeInstanceOf(Error);
  }
});

test("waiting for the first answer ends with the last thing that was seen", async () => {
  const client = await clientOf((socket) => socket.once("data", () => socket.end(answer("no", "HTTP/1.1 503 Busy\r\n"))));
  await expect(client.waitUntilHealthy(100, new AbortController().signal)).rejects.toThrow("last seen: it answered 503");
});

/** Bodies of the `/init`s a guest gets, whose clock shows each of `clocks` in turn. */
async function initsOf(clocks: readonly (() => string)[]): Promise<{ readonly client: GuestClient; readonly bodies: object[] }> {
  const bodies: object[] = [];
  const client = await clientOf((socket) => {
    socket.once("data", (bytes: Buffer) => {
      const [head, body = ""] = bytes.toString().split("\r\n\r\n");
      if (head?.startsWith("POST /init ") === true) bodies.push(JSON.parse(body) as object);
      const clock = clocks[Math.min(bodies.length, clocks.length) - 1]?.() ?? "";
      socket.end(`HTTP/1.1 204 No Content\r\n${clock}\r\n`);
    });
  });
  return { client, bodies };
}

const spec = {
  sandboxId: newSandboxId(),
  template: "base",
  templateName: "",
  vcpus: 1,
  memoryMib: 512,
  diskSizeMib: 0,
  timeoutSec: 0,
  checkpointIntervalSec: 0,
  envs: { A: "1" },
  accessToken: newToken(),
  network: { ...openEgress, allowOut: [], denyOut: [], authority: null },
  defaults: { ...noTemplateDefaults, user: "builder", workdir: "/srv", envs: { A: "0", B: "2" } },
};

test("a guest whose clock is late after its /init is told the time once more, and nothing else", async () => {
  vi.useFakeTimers({ toFake: ["Date"] });
  const { client, bodies } = await initsOf([() => `${guestClockHeader}: ${Date.now() - 400}\r\n`]);
  await client.init(spec, new AbortController().signal);
  await poll({ what: "a second /init", timeoutMs: 30_000 }, () => (bodies.length === 2 ? true : undefined));
  expect(bodies[0]).toMatchObject({
    hostname: spec.sandboxId,
    envVars: { A: "1", B: "2" },
    defaultUser: "builder",
    defaultWorkdir: "/srv",
  });
  expect(bodies[1]).toEqual({ timestamp: expect.any(String) as string });
});

test.each([
  ["is right", () => `${guestClockHeader}: ${Date.now() + 25}\r\n`],
  ["is not told", () => ""],
  ["makes no sense", () => `${guestClockHeader}: noon\r\n`],
])("a guest whose clock %s is left alone", async (_what, clock) => {
  vi.useFakeTimers({ toFake: ["Date"] });
  const { client, bodies } = await initsOf([clock]);
  await client.init(spec, new AbortController().signal);
  await client.waitUntilHealthy(1_000, new AbortController().signal).catch(() => undefined); // whatever was sent first has come
  expect(bodies.length).toBe(1);
});
