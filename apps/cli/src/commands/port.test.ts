import { EventEmitter, once } from "node:events";
import { connect, createServer, type AddressInfo, type Server } from "node:net";
import { buffer } from "node:stream/consumers";

import { Deferred } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { TestCli } from "../testing/test-cli.ts";

let cli: TestCli;
let id: string;
const servers: Server[] = [];
beforeEach(async () => {
  cli = await TestCli.start();
  ({ id } = await cli.sandbox());
});
afterEach(async () => {
  for (const server of servers.splice(0)) server.close();
  await cli[Symbol.asyncDispose]();
});

/** What listens in the sandbox: answers in capitals once the question has ended. */
async function serve(): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    let question = "";
    socket.on("data", (chunk) => (question += chunk.toString())).on("end", () => socket.end(question.toUpperCase()));
  }).listen(0, "127.0.0.1");
  servers.push(server);
  await once(server, "listening");
  return (server.address() as AddressInfo).port;
}

function forward(args: readonly string[]) {
  const signals = new EventEmitter();
  const listening = new Deferred<string>();
  const ended = cli.run(["port", id, ...args], { signals, onStdout: (text) => listening.resolve(text) });
  void ended.then(({ stderr }) => listening.reject(new Error(stderr)));
  return { listening: listening.promise, end: () => void signals.emit("SIGINT"), ended };
}

async function ask(port: number, question: string): Promise<string> {
  const socket = connect({ host: "127.0.0.1", port, allowHalfOpen: true });
  socket.end(question);
  return (await buffer(socket)).toString();
}

test("--forward carries several connections, and ends well with Ctrl-C", async () => {
  const port = await serve();
  const forwarding = forward([String(port), "--forward"]);
  const [, local] = /^127\.0\.0\.1:(\d+) is port \d+ of /.exec(await forwarding.listening) ?? [];
  expect(await Promise.all(["a", "b"].map((question) => ask(Number(local), question)))).toEqual(["A", "B"]);
  forwarding.end();
  const { exitCode, stderr } = await forwarding.ended;
  expect([exitCode, stderr]).toEqual([0, expect.stringContaining("2 connections were carried")]);
  await expect(ask(Number(local), "c")).rejects.toThrow("ECONNREFUSED");
});

test("--forward --json says where it listens, what fails, and how it ended", async () => {
  const port = await serve();
  servers[0]?.close(); // nothing listens in the sandbox any more
  const forwarding = forward([String(port), "--forward", "127.0.0.1:0", "--json"]);
  const listening = JSON.parse(await forwarding.listening) as { local_port: number };
  expect(listening).toEqual({ type: "listening", sandbox_id: id, port, address: "127.0.0.1", local_port: expect.any(Number) });
  await expect(ask(listening.local_port, "a")).rejects.toThrow("ECONNRESET");
  forwarding.end();
  const lines = (await forwarding.ended).stdout.toString().trim().split("\n");
  expect(lines.map((line) => JSON.parse(line) as object)).toEqual([
    listening,
    { type: "failure", code: "guest_unreachable", message: expect.any(String) },
    { type: "end", connections: 1 },
  ]);
});

test("Ctrl-C cuts what is open", async () => {
  const port = await serve();
  const forwarding = forward([String(port), "--forward", "--json"]);
  const { local_port: local } = JSON.parse(await forwarding.listening) as { local_port: number };
  const socket = connect(local, "127.0.0.1");
  await once(socket, "connect");
  const closed = once(
    socket.on("error", () => undefined),
    "close",
  );
  forwarding.end();
  expect((await forwarding.ended).exitCode).toBe(0);
  await closed;
});

test("a port that is taken, a wrong port and a wrong address are told", async () => {
  const taken = await serve();
  expect(await cli.run(["port", id, "80", "--forward", String(taken)])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining("EADDRINUSE"),
  });
  for (const wrong of ["0", "65536", "http", "49983"]) {
    expect(await cli.run(["port", id, wrong, "--forward"])).toMatchObject({ exitCode: 2, stderr: expect.stringContaining(wrong) });
  }
  expect(await cli.run(["port", id, "80", "--forward", "0.0.0.0:80"])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining("--expose"),
  });
  expect(await cli.run(["port", id, "80", "--expose"])).toMatchObject({ exitCode: 2 });
  expect(await cli.run(["port", id, "--forward"])).toMatchObject({ exitCode: 2, stderr: expect.stringContaining("say which") });
});

test("a private port's URL is signed, a public one's is not; access is changed by the way", async () => {
  const signed = await cli.run(["port", id, "8080", "--expires", "10m", "--path", "/a?b=c"]);
  expect(signed).toMatchObject({ exitCode: 0, stderr: expect.stringContaining("private") });
  const url = new URL(signed.stdout.toString());
  expect([url.hostname.split(".")[0], url.pathname, url.searchParams.get("b")]).toEqual([`8080-${id}`, "/a", "c"]);
  const json = JSON.parse((await cli.run(["port", id, "8080", "--json"])).stdout.toString()) as Record<string, unknown>;
  expect(json).toMatchObject({
    port: 8080,
    access: "private",
    signed_url: expect.stringContaining(`8080-${id}`),
    expires_at: expect.any(String),
  });
  const opened = await cli.run(["port", id, "8080", "--access", "public"]);
  expect(opened.stdout.toString().trim()).toBe(json["url"]);
  expect((await cli.run(["port", id])).stdout.toString()).toMatch(/^8080 +public +http.*\nothers +private +http/m);
  expect((await cli.run(["port", id, "8080", "--access", "default", "--json"])).stdout.toString()).toContain("signed_url");
});
