import { createHash } from "node:crypto";
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { guestAgentPort } from "@roost/contract";
import { MiB, poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import type { ProxyLab } from "../testing/proxy-lab.ts";

/** Much data, many streams, slow readers: what would fill memory, or hold up others, without back-pressure. */

/** What may wait on the way when a reader stands still: buffers of streams and sockets on both sides, of this process all */
const inFlightMax = 32 * MiB;

let lab: ProxyLab;
eachProxyLab((fresh) => {
  lab = fresh;
  lab.sandbox(id);
});

const answerTo = async (request: ClientRequest) =>
  new Promise<IncomingMessage>((resolve, reject) => {
    request.once("response", resolve);
    request.once("error", reject);
  });

/** `total` bytes, made as they are read; `made` counts them. */
function source(total: number): { readonly stream: Readable; readonly digest: () => string; made: number } {
  const piece = Buffer.from(new SeededRandom(5).bytes(64 * 1024));
  const hash = createHash("sha256");
  const made = { made: 0 };
  const stream = new Readable({
    read() {
      const chunk = piece.subarray(0, Math.min(piece.length, total - made.made));
      made.made += chunk.length;
      hash.update(chunk);
      this.push(chunk.length === 0 ? null : chunk);
    },
  });
  return Object.assign(made, { stream, digest: () => hash.digest("hex") });
}

test("100 MiB up and down at once arrive whole", { timeout: 120_000 }, async () => {
  await lab.serve(id, app, (request, response) => void request.pipe(response));
  const { stream, digest } = source(100 * MiB);
  const request = httpRequest(lab.options({ id, port: app, method: "POST" }));
  const sending = pipeline(stream, request);
  const hash = createHash("sha256");
  for await (const chunk of (await answerTo(request)) as AsyncIterable<Buffer>) hash.update(chunk);
  await sending;
  expect(hash.digest("hex")).toBe(digest());
});

test("a gigabyte up and down takes no more memory than a part of it", { timeout: 240_000 }, async () => {
  const total = 1024 * MiB;
  await lab.serve(id, app, (request, response) => void request.pipe(response));
  const piece = Buffer.alloc(64 * 1024, 7);
  let made = 0;
  const stream = new Readable({
    read() {
      this.push(made < total ? piece : null);
      made += piece.length;
    },
  });
  const before = process.memoryUsage().arrayBuffers;
  let most = 0;
  const request = httpRequest(lab.options({ id, port: app, method: "POST" }));
  const sending = pipeline(stream, request);
  let received = 0;
  for await (const chunk of (await answerTo(request)) as AsyncIterable<Buffer>) {
    received += chunk.length;
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
  }
  await sending;
  expect(received).toBe(total);
  // Of the test's client, the platform and the guest together, with what the collector has yet to take
  expect(most).toBeLessThan(256 * MiB);
});

test("a client that does not read holds the guest back", { timeout: 120_000 }, async () => {
  const { stream, ...counted } = source(400 * MiB);
  void counted;
  let sent = 0;
  stream.on("data", (chunk: Buffer) => (sent += chunk.length));
  stream.pause();
  await lab.serve(id, app, (_request, response) => {
    stream.pipe(response);
    response.on("close", () => stream.destroy());
  });
  const request = httpRequest(lab.options({ id, port: app }));
  request.end();
  const answer = await answerTo(request);
  answer.pause();
  // It stands still, and not because it is over.
  let before = -1;
  await until("a standstill", () => {
    const isStill = sent === before && sent > 0;
    before = sent;
    return isStill;
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(sent).toBeLessThan(inFlightMax);
  // Meanwhile others are served.
  await lab.serve(id, 4000, (_request, response) => response.end("quick"));
  expect((await lab.fetch({ id, port: 4000 })).body).toBe("quick");
  const stillAt = sent;
  answer.resume();
  await until("more", () => sent > stillAt + inFlightMax);
  request.destroy();
});

test("a guest that does not read holds an upload back", { timeout: 120_000 }, async () => {
  let resume = () => {};
  await lab.serve(id, app, (request, response) => {
    resume = () => {
      request.resume();
      request.on("end", () => response.end("whole"));
    };
  });
  const counted = source(200 * MiB);
  const request = httpRequest(lab.options({ id, port: app, method: "POST" }));
  const sending = pipeline(counted.stream, request);
  let before = -1;
  await until("a standstill", () => {
    const isStill = counted.made === before && counted.made > 0 && lab.tunnels.size === 1;
    before = counted.made;
    return isStill;
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(counted.made).toBeLessThan(inFlightMax);
  resume();
  await sending;
  expect((await answerTo(request)).statusCode).toBe(200);
});

test("1,000 streams at once: each gets its own bytes, as they come, and none is lost", { timeout: 120_000 }, async () => {
  const count = 1_000;
  const open: (() => void)[] = [];
  await lab.serve(id, guestAgentPort, (request, response) => {
    const name = String(request.headers["x-name"]);
    response.write(`start ${name};`);
    open.push(() => response.end(`end ${name};`));
  });
  const texts: string[] = Array.from({ length: count }, () => "");
  const ended = Array.from({ length: count }, async (_, index) => {
    const request = httpRequest(lab.options({ id, path: "/process.Process/Start", method: "POST", headers: { "x-name": String(index) } }));
    request.end("{}");
    for await (const chunk of (await answerTo(request)) as AsyncIterable<Buffer>) texts[index] += chunk.toString();
  });
  await until("the start of all", () => texts.every((text) => text.startsWith("start")));
  expect(lab.tunnels.size).toBe(count);
  // One more request is served while all of them are open.
  await lab.serve(id, app, (_request, response) => response.end("quick"));
  expect((await lab.fetch({ id, port: app })).body).toBe("quick");
  for (const end of open) end();
  await Promise.all(ended);
  expect(texts).toEqual(texts.map((_, index) => `start ${index};end ${index};`));
  expect(lab.results.filter((result) => result === "2xx")).toHaveLength(count + 1);
});

test("1,000 streams are cut when the VM ends, and nothing of them is left", { timeout: 120_000 }, async () => {
  const count = 1_000;
  await lab.serve(id, guestAgentPort, (_request, response) => void response.write("begun"));
  let begun = 0;
  const ends = Array.from({ length: count }, async () => {
    const request = httpRequest(lab.options({ id, path: "/health" }));
    request.end();
    const answer = await answerTo(request);
    begun += 1;
    return new Promise<string>((resolve) => {
      answer.on("error", (error) => resolve(error.message));
      answer.on("end", () => resolve("end"));
      answer.resume();
    });
  });
  await until("all", () => begun === count);
  lab.endVm(id, { state: "stopped" });
  expect(new Set(await Promise.all(ends))).toEqual(new Set(["aborted"]));
  await until("no tunnel", () => lab.tunnels.size === 0);
  await poll({ what: "no client", timeoutMs: 30_000 }, async () => ((await lab.clientCount()) === 0 ? true : undefined));
  expect(lab.results).toEqual(Array.from({ length: count }, () => "cut"));
});

test("an answer that comes before the request has ended is passed on, both ways go on", async () => {
  await lab.serve(id, app, (request, response) => {
    response.write("ready;");
    request.on("data", (chunk: Buffer) => response.write(`got ${chunk.toString()};`));
    request.on("end", () => response.end("done"));
  });
  const request = httpRequest(lab.options({ id, port: app, method: "POST" }));
  request.flushHeaders();
  const answer = await answerTo(request);
  let text = "";
  answer.on("data", (chunk: Buffer) => (text += chunk.toString()));
  await until("the start", () => text === "ready;");
  request.write("one");
  await until("the first", () => text === "ready;got one;");
  request.end("two");
  await until("the end", () => text === "ready;got one;got two;done");
});

test("a guest that answers an upload early and closes is heard by a client that is still sending", { timeout: 60_000 }, async () => {
  await lab.serve(id, app, (request, response) => {
    response.writeHead(413, { connection: "close", "content-length": 3 });
    response.end("too");
    request.once("data", () => request.pause());
  });
  for (let round = 0; round < 40; round += 1) {
    const request = httpRequest(lab.options({ id, port: app, method: "POST" }));
    request.on("error", () => undefined); // the connection is closed in the end
    const timer = setInterval(() => request.write(Buffer.alloc(64 * 1024)), 1);
    try {
      const answer = await answerTo(request);
      expect(answer.statusCode).toBe(413);
      expect((await answer.toArray()).join("")).toBe("too");
    } finally {
      clearInterval(timer);
      request.destroy();
    }
  }
  await until("no tunnel", () => lab.tunnels.size === 0);
});

test("a body that a guest leaves unread does not stand in the way of the connection's next request", { timeout: 60_000 }, async () => {
  await lab.serveRaw(id, app, (socket) => {
    // It answers when it has seen the head, and reads nothing more.
    socket.once("data", () => {
      socket.pause();
      socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok");
    });
  });
  for (const length of [10, 60_000, 200_000]) {
    const connection = await lab.connect();
    const head = (path: string, more: string) => `POST ${path} HTTP/1.1\r\nHost: ${app}-${id}.x\r\n${more}\r\n`;
    connection.write(head("/first", `Content-Length: ${length}\r\n`) + "x".repeat(length) + head("/second", "Content-Length: 0\r\n"));
    // Either the next one is answered, or the connection was closed for the first.
    await until("both", () => connection.received.split("\r\n\r\nok").length === 3 || connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\nok/);
    if (connection.end !== undefined) expect(connection.received).toMatch(/connection: close/i);
    connection.socket.destroy();
  }
});
