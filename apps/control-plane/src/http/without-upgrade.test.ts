import { connect } from "node:net";

import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const http2 = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n";

/** What comes back for bytes, once it holds `count` answers; the connection stays open between them. */
async function answersTo(pieces: readonly string[], count: number): Promise<string[]> {
  const socket = connect(Number(new URL(world.url).port), "127.0.0.1");
  let received = "";
  socket.setEncoding("utf8").on("data", (text: string) => (received += text));
  for (const piece of pieces) {
    socket.write(piece);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  const answers = () => received.split(/(?=HTTP\/1\.1 \d)/);
  await poll({ what: "the answers", timeoutMs: 30_000, intervalMs: 5 }, () =>
    answers().length >= count && answers().every((text) => text.includes("\r\n\r\n")) ? true : undefined,
  );
  socket.destroy();
  return answers();
}

test("a client that offers HTTP/2 is served by HTTP/1.1, body and all, and its next request as well", async () => {
  const body = JSON.stringify({ metadata: { offered: "http2" } });
  const head = (method: string, path: string, more: string) =>
    `${method} ${path} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${world.key}\r\n${more}\r\n`;
  const create = head("POST", "/v1/sandboxes", `Content-Type: application/json\r\nContent-Length: ${body.length}\r\n${http2}`);
  const answers = await answersTo(
    [create + body.slice(0, 5), body.slice(5), head("GET", "/v1/sandboxes", http2), head("GET", "/health", "")],
    3,
  );
  expect(answers[0]).toMatch(/^HTTP\/1\.1 201 [^]*"offered":"http2"/);
  expect(answers[1]).toMatch(/^HTTP\/1\.1 200 [^]*"offered":"http2"/);
  expect(answers[2]).toMatch(/^HTTP\/1\.1 204 /);
});

test("one that offers it before the answer to its last request came is served after that", async () => {
  const head = (path: string, more: string) => `GET ${path} HTTP/1.1\r\nHost: x\r\nX-API-Key: ${world.key}\r\n${more}\r\n`;
  const answers = await answersTo([head("/v1/sandboxes", "") + head("/v1/templates", http2) + head("/health", "")], 3);
  expect(answers[0]).toMatch(/^HTTP\/1\.1 200 [^]*"sandboxes"/);
  expect(answers[1]).toMatch(/^HTTP\/1\.1 200 [^]*"templates"/);
  expect(answers[2]).toMatch(/^HTTP\/1\.1 204 /);
});

test("so is one that speaks to a guest", async () => {
  const { id } = await world.createSandbox();
  const head = `POST /process.Process/List HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: ${id}\r\nE2b-Sandbox-Port: 49983\r\nContent-Type: application/json\r\n`;
  const answers = await answersTo([`${head}Content-Length: 2\r\n${http2}\r\n{}`, `${head}Content-Length: 2\r\n\r\n{}`], 2);
  for (const answer of answers) expect(answer).toMatch(/^HTTP\/1\.1 200 [^]*\{\}/);
});

test("a connection on which it is asked for again and again is closed in the end", async () => {
  const socket = connect(Number(new URL(world.url).port), "127.0.0.1");
  let received = "";
  let hasEnded = false;
  socket.setEncoding("utf8").on("data", (text: string) => (received += text));
  socket.on("end", () => (hasEnded = true)).on("error", () => undefined);
  const isDone = () => (hasEnded ? true : undefined);
  const timer = setInterval(() => socket.write(`GET /health HTTP/1.1\r\nHost: x\r\n${http2}\r\n`), 10);
  await poll({ what: "the end", timeoutMs: 30_000, intervalMs: 5 }, isDone).finally(() => clearInterval(timer));
  expect(received.match(/HTTP\/1\.1 204/g)).toHaveLength(4);
  socket.destroy();
});
