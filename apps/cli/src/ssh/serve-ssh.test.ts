import { once } from "node:events";
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import type { Readable } from "node:stream";
import { buffer, text } from "node:stream/consumers";

import { RoostClient } from "@roost/sdk";
import { FakeApi } from "@roost/sdk/testing";
import ssh2, { type ClientChannel } from "ssh2";
import { afterEach, beforeEach, expect, test } from "vitest";

import { serveSsh } from "./serve-ssh.ts";

/** The server alone, with the library's own client: what the stock programs have no option for. */

let api: FakeApi;
let client: ssh2.Client;
let served: Promise<void>;
beforeEach(async () => {
  api = await FakeApi.start();
  const roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
  const sandbox = roost.sandbox((await roost.sandboxes.create()).id);
  // Not a pair of streams in memory: the library changes buffers that it has written already
  const listener = createServer().listen(0, "127.0.0.1");
  await once(listener, "listening");
  const theirs = connect((listener.address() as AddressInfo).port, "127.0.0.1");
  const [ours] = (await once(listener, "connection")) as [Socket];
  listener.close();
  const hostKey = ssh2.utils.generateKeyPairSync("ed25519").private;
  served = serveSsh(ours, { sandbox, hostKey, user: undefined });
  client = new ssh2.Client();
  client.connect({ sock: theirs, username: "default" });
  await once(client, "ready");
});
afterEach(async () => {
  client.end();
  await served;
  await api[Symbol.asyncDispose]();
});

async function exec(command: string, options: ssh2.ExecOptions = {}): Promise<ClientChannel> {
  return new Promise((resolve, reject) => {
    client.exec(command, options, (error, channel) => (error === undefined ? resolve(channel) : reject(error)));
  });
}

async function end(channel: ClientChannel) {
  const [stdout, stderr, [code]] = await Promise.all([text(channel), text(channel.stderr), once(channel, "exit") as Promise<[number]>]);
  return { stdout, stderr, code };
}

test("signals reach the program by their names", async () => {
  const channel = await exec("trap 'echo interrupted; exit 5' INT; trap 'echo used' USR1; echo ready; while :; do sleep 0.05; done");
  await once(channel, "data");
  channel.signal("USR1");
  expect(String(((await once(channel, "data")) as [Buffer])[0])).toBe("used\n");
  channel.signal("INT");
  expect(await end(channel)).toMatchObject({ stdout: "interrupted\n", code: 5 });
});

test("several sessions at once, each with its own variables; too many and odd ones are refused", async () => {
  const all = await Promise.all(["a", "b", "c"].map(async (value) => end(await exec("printf %s $VALUE", { env: { VALUE: value } }))));
  expect(all.map(({ stdout }) => stdout)).toEqual(["a", "b", "c"]);
  const many = Object.fromEntries(Array.from({ length: 100 }, (_, index) => [`MANY_${index}`, "x"]));
  expect((await end(await exec("env | grep -c ^MANY_", { env: many }))).stdout).toBe("64\n");
  expect((await end(await exec("env | grep -c ^LONG= || true", { env: { LONG: "x".repeat(10_000) } }))).stdout).toBe("0\n");
});

test("a reader that does not read holds the program back, and both streams arrive whole", { timeout: 60_000 }, async () => {
  const size = 5_000_000; // more than the client's window and buffer together
  const channel = await exec(`head -c ${size} /dev/zero; head -c ${size} /dev/zero | tr '\\0' x >&2; exit 3`);
  const exit = once(channel, "exit") as Promise<[number]>;
  const received = [];
  for (const [stream, byte] of [
    [channel, 0],
    [channel.stderr, 0x78],
  ] as const) {
    await heldBack(stream);
    let length = 0;
    for await (const bytes of stream.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
      length += bytes.length;
      expect(bytes.every((value) => value === byte)).toBe(true);
      if (length >= size) break;
    }
    received.push(length);
  }
  const rest = await Promise.all([buffer(channel), buffer(channel.stderr)]);
  expect([...received, ...rest.map(({ length }) => length), (await exit)[0]]).toEqual([size, size, 0, 0, 3]);
});

/** Resolves when a stream has all that is sent while nobody reads it: the client's window is used up. */
async function heldBack(stream: Readable): Promise<void> {
  let before = -1;
  await expect
    .poll(
      () => {
        const isHeld = stream.readableLength > 1_000_000 && stream.readableLength === before;
        before = stream.readableLength;
        return isHeld;
      },
      { timeout: 30_000, interval: 300 },
    )
    .toBe(true);
}

test("a connection to a port of the sandbox keeps its two ends apart; to anywhere else there is none", async () => {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.end("bye"); // first, and still hears
    socket.on("data", (chunk) => received.push(chunk.toString())).on("end", () => received.push("end"));
  }).listen(0, "127.0.0.1");
  const received: string[] = [];
  await once(server, "listening");
  const { port } = server.address() as AddressInfo;
  const forward = async (host: string, to: number) =>
    new Promise<ClientChannel>((resolve, reject) => {
      client.forwardOut("127.0.0.1", 1, host, to, (error, channel) => (error === undefined ? resolve(channel) : reject(error)));
    });
  const channel = await forward("localhost", port);
  expect(await new Promise((resolve) => channel.once("data", (chunk: Buffer) => resolve(chunk.toString())))).toBe("bye");
  channel.resume();
  channel.end("still here");
  await expect.poll(() => received.join(" "), { timeout: 10_000 }).toBe("still here end");
  server.close();
  for (const host of ["example.org", "10.0.0.1", "169.254.169.254", "localhost.example.org"]) {
    await expect(forward(host, port), host).rejects.toThrow("open failure");
  }
  await expect(forward("127.0.0.1", port)).rejects.toThrow("open failure"); // nothing listens any more
});

test("other subsystems and remote forwarding are refused, and the connection goes on", async () => {
  await expect(
    new Promise((resolve, reject) => client.subsys("netconf", (error) => (error === undefined ? resolve(0) : reject(error)))),
  ).rejects.toThrow(/Unable|failed|failure/);
  await expect(
    new Promise((resolve, reject) => client.forwardIn("", 0, (error) => (error === undefined ? resolve(0) : reject(error)))),
  ).rejects.toThrow(/Unable|failed|failure/);
  expect((await end(await exec("echo on"))).stdout).toBe("on\n");
});

test("what cannot be started is told on standard error", async () => {
  api.dropConnections();
  api.handlers.socket.execStream = ({ socket }) => {
    socket.send(JSON.stringify({ type: "error", code: "user_unknown", data: "there is no user \u001b[31mx" }));
    socket.close(1008);
  };
  const { stderr, code } = await end(await exec("true"));
  expect([code, stderr]).toEqual([255, expect.not.stringContaining("\u001b")]);
  expect(stderr).toMatch(/^roost: there is no user .*x\r\n$/);
});
