import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { inspect } from "node:util";

import type { EgressProxy } from "@roost/contract";
import { must } from "@roost/kit";
import { afterEach, expect, test, vi } from "vitest";

import { connectThrough } from "./egress-proxy.ts";

const servers: Server[] = [];
const sockets: Socket[] = [];
afterEach(() => {
  vi.useRealTimers();
  for (const server of servers.splice(0)) server.close();
  for (const socket of sockets.splice(0)) socket.destroy();
});

const username = "someone";
const password = "open-sesame";
const loopback = { find: async () => ["127.0.0.1"] };

/** A proxy of the test's own, which has its credentials. */
async function proxyOf(protocol: EgressProxy["protocol"], serve: (socket: Socket) => void): Promise<EgressProxy> {
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    serve(socket);
  });
  servers.push(server);
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const address = server.address();
  return { protocol, address: `127.0.0.1:${typeof address === "object" ? address?.port : ""}`, username, password };
}

async function ask(proxy: EgressProxy, signal: AbortSignal = new AbortController().signal): Promise<unknown> {
  return connectThrough(proxy, { host: "example.com", port: 443 }, loopback, signal).then(
    () => "connected",
    (error: unknown) => error,
  );
}

/** What it answers to one piece of what it is asked after the other. */
const inTurn = (answers: readonly (readonly number[])[]) => (socket: Socket) => {
  const left = [...answers];
  socket.on("data", () => {
    const answer = left.shift();
    if (answer !== undefined) socket.write(Buffer.from(answer));
  });
};

test.each(["socks5", "http"] as const)("a %s proxy that never answers is given up, and its connection ended", async (protocol) => {
  vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout"] });
  let asked: Socket | undefined;
  const proxy = await proxyOf(protocol, (socket) => socket.once("data", () => (asked = socket)));
  const failure = ask(proxy);
  await vi.waitUntil(() => asked !== undefined, { timeout: 30_000 });
  await vi.advanceTimersByTimeAsync(29_000);
  expect(asked?.destroyed).toBe(false);
  await vi.advanceTimersByTimeAsync(2_000);
  expect(await failure).toMatchObject({ name: "DeadlineError" });
  const ending = must(asked, "the proxy's side");
  if (!ending.destroyed) await once(ending, "close");
});

test.each(["socks5", "http"] as const)("a %s proxy is let go of when the guest is", async (protocol) => {
  const gone = new AbortController();
  const proxy = await proxyOf(protocol, (socket) => socket.once("data", () => gone.abort()));
  expect(await ask(proxy, gone.signal)).toBeInstanceOf(Error);
});

test.each<[string, EgressProxy["protocol"], (socket: Socket) => void]>([
  ["hangs up", "socks5", (socket) => socket.destroy()],
  ["ends", "socks5", (socket) => socket.end()],
  ["is of another version", "socks5", inTurn([[4, 0]])],
  ["wants what it was not offered", "socks5", inTurn([[5, 1]])],
  [
    "does not know the password",
    "socks5",
    inTurn([
      [5, 2],
      [1, 1],
    ]),
  ],
  [
    "refuses",
    "socks5",
    inTurn([
      [5, 2],
      [1, 0],
      [5, 2, 0, 1, 0, 0, 0, 0, 0, 0],
    ]),
  ],
  ["ends in the middle of its answer", "socks5", (socket) => socket.end(Buffer.from([5]))],
  ["says what it heard", "socks5", (socket) => socket.pipe(socket)],
  ["hangs up", "http", (socket) => socket.destroy()],
  ["refuses", "http", (socket) => socket.end("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")],
  ["says what it heard", "http", (socket) => socket.pipe(socket)],
  ["talks without end", "http", (socket) => void socket.write(`HTTP/1.1 200 OK\r\nx: ${"x".repeat(100_000)}`)],
])("a proxy that %s (%s) is an error without the credentials", async (_what, protocol, serve) => {
  const failure = await ask(await proxyOf(protocol, serve));
  expect(failure).toBeInstanceOf(Error);
  const shown = inspect(failure, { depth: 20, showHidden: true });
  for (const secret of [password, Buffer.from(`${username}:${password}`).toString("base64"), [...Buffer.from(password)].join(", ")])
    expect(shown).not.toContain(secret);
});

test("an answer that comes byte by byte is read, and nothing behind it is lost", async () => {
  const answer = Buffer.from([5, 0, 0, 3, 4, 97, 46, 98, 99, 0, 80]);
  const proxy = await proxyOf("socks5", (socket) => {
    inTurn([
      [5, 2],
      [1, 0],
    ])(socket);
    let count = 0;
    socket.on("data", () => {
      count += 1;
      if (count < 3) return;
      const bytes = Buffer.concat([answer, Buffer.from("the rest")]);
      const next = (at: number) => {
        if (at === bytes.length) return socket.end();
        socket.write(bytes.subarray(at, at + 1), () => setImmediate(next, at + 1));
      };
      next(0);
    });
  });
  const socket = await connectThrough(proxy, { host: "example.com", port: 443 }, loopback, new AbortController().signal);
  sockets.push(socket);
  let text = "";
  for await (const chunk of socket) text += String(chunk);
  expect(text).toBe("the rest");
});
