import { connect } from "node:net";

import { errorBodySchema } from "@roost/contract";
import { SeededRandom } from "@roost/testing";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ deadlines: { bodyTimeoutMs: 300 } });
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

/** Sends raw bytes and returns everything that comes back until the connection ends. */
async function raw(text: string | Uint8Array): Promise<string> {
  const { port } = new URL(world.url);
  return new Promise((resolve) => {
    const socket = connect(Number(port), "127.0.0.1");
    const chunks: Buffer[] = [];
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("error", () => undefined); // close follows
    socket.on("close", () => resolve(Buffer.concat(chunks).toString("latin1")));
    socket.end(text);
  });
}

function errorIn(response: string) {
  return errorBodySchema.parse(JSON.parse(response.slice(response.indexOf("\r\n\r\n") + 4))).error;
}

async function errorOf(answer: Response) {
  return errorBodySchema.parse(await answer.json()).error;
}

test("unknown paths are 404, known ones with a wrong method 405 with Allow", async () => {
  for (const path of [
    "/nothing",
    "/v1/",
    "/v1/sandboxes/i1/nothing",
    "/v4/sandboxes",
    "/docs/../../etc/passwd",
    "/docs/..%2f..%2fpackage.json",
  ]) {
    const answer = await world.request("GET", path);
    expect([answer.status, (await errorOf(answer)).code], path).toEqual([404, "route_not_found"]);
  }
  const answer = await world.request("PATCH", "/v1/sandboxes");
  expect(answer.status).toBe(405);
  expect(answer.headers.get("allow")?.split(", ").sort()).toEqual(["GET", "HEAD", "POST"]);
  expect((await errorOf(answer)).code).toBe("method_not_allowed");
  const put = await world.request("DELETE", "/v1/sandboxes/i1/files", undefined);
  expect(put.status).toBe(405);
  await put.text();
});

test("a bad value is told with its field, the value, and what would do", async () => {
  const ask = async (body: object) => (await errorOf(await world.request("POST", "/v1/sandboxes", body))).message;
  expect(await ask({ vcpus: 99 })).toMatch(/vcpus: 99 is not accepted: .*16/);
  expect(await ask({ memory_mb: 1 })).toMatch(/memory_mb: 1 is not accepted: .*256/);
  expect(await ask({ memory_mb: 1.5 })).toMatch(/memory_mb: 1.5 is not accepted/);
  expect(await ask({ timeout_sec: -1 })).toMatch(/timeout_sec: -1 is not accepted: .*0/);
  expect(await ask({ template: "../etc" })).toMatch(/template: "..\/etc" is not accepted: a template name starts with/);
  expect(await ask({ vcpu: 1 })).toMatch(/there is no field "vcpu"/);
  expect(await ask({ metadata: { "": "x" } })).toMatch(/metadata/);
  expect(await ask({ metadata: { a: "\0" } })).toMatch(/metadata.a: .* must be well-formed text without NUL/);
  expect(await ask({ metadata: { a: "\u{D800}" } })).toMatch(/metadata.a/);
  expect(await ask({ envs: { "A=B": "x" } })).toMatch(/envs/);
  const query = await errorOf(await world.request("GET", "/v1/sandboxes?limit=0&state=sleeping&metadata=x"));
  expect(query.message).toMatch(/state.*sleeping|state.*running/);
  expect((await errorOf(await world.request("GET", "/v1/sandboxes?limit=1&limit=2"))).message).toMatch(/limit/);
  expect((await errorOf(await world.request("GET", "/v1/sandboxes?cursor=x"))).message).toMatch(/next_cursor/);
});

test("a long value is cut in the message", async () => {
  const { message } = await errorOf(await world.request("POST", "/v1/sandboxes", { template: "x".repeat(100_000) }));
  expect(message.length).toBeLessThan(400);
});

test("headers that are too large, garbage and half requests are answered like everything else", async () => {
  const overflow = await raw(`GET /health HTTP/1.1\r\nhost: x\r\nx-long: ${"y".repeat(40_000)}\r\n\r\n`);
  expect(overflow).toMatch(/^HTTP\/1.1 413 /);
  expect(errorIn(overflow).code).toBe("request_too_large");
  for (const garbage of ["\0\0\0\0\r\n\r\n", "NONSENSE\r\n\r\n", "GET / HTTP/9.9\r\n\r\n", "GET /health HTTP/1.1\r\nbad header\r\n\r\n"]) {
    const answer = await raw(garbage);
    expect(answer, JSON.stringify(garbage)).toMatch(/^HTTP\/1.1 400 /);
    expect(errorIn(answer).code).toBe("request_invalid");
  }
  const smuggled = await raw("POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
  expect(smuggled).toMatch(/^HTTP\/1.1 400 /);
});

test("random bytes on the port harm nothing", async () => {
  const random = new SeededRandom();
  for (let round = 0; round < 60; round += 1) {
    const bytes = random.bytes(random.integer(300));
    const prefix = random.pick([
      "",
      "GET ",
      "POST /v1/sandboxes HTTP/1.1\r\n",
      "GET /v1/sandboxes/i/pty HTTP/1.1\r\nupgrade: websocket\r\nconnection: upgrade\r\n",
    ]);
    await raw(Buffer.concat([Buffer.from(prefix), bytes, Buffer.from(random.pick(["", "\r\n\r\n"]))]));
  }
  expect((await fetch(`${world.url}/health`)).status, `SEED=${random.seed} replays this`).toBe(204);
});

test("percent-encoding that is none is refused", async () => {
  const answer = await raw(`GET /v1/sandboxes/%zz HTTP/1.1\r\nhost: x\r\nx-api-key: ${world.key}\r\nconnection: close\r\n\r\n`);
  expect(answer).toMatch(/^HTTP\/1.1 400 /);
  expect(answer).toContain("request_invalid");
});

test("health needs no key, says what is wrong, and comes back", async () => {
  const answer = await fetch(`${world.url}/health`);
  expect([answer.status, await answer.text()]).toEqual([204, ""]); // E2B's answer, too
  world.host.isUnreachable = true;
  world.host.cutWatches();
  const status = async () => (await fetch(`${world.url}/health`)).status;
  await expect.poll(status).toBe(503);
  expect((await errorOf(await fetch(`${world.url}/health`))).code).toBe("host_unreachable");
  world.host.isUnreachable = false;
  await expect.poll(status, { timeout: 10_000 }).toBe(204);
});

test("a plain GET of a WebSocket says what it is, to those with a key", async () => {
  const answer = await world.request("GET", "/v1/sandboxes/i1/pty");
  expect([answer.status, (await errorOf(answer)).message]).toEqual([400, expect.stringContaining("Upgrade: websocket")]);
  const blind = await fetch(`${world.url}/v1/sandboxes/i1/pty`);
  expect(blind.status).toBe(401);
});

test("metrics need a key, and count", async () => {
  expect((await fetch(`${world.url}/metrics`)).status).toBe(401);
  await world.createSandbox();
  const text = await (await world.request("GET", "/metrics")).text();
  expect(text).toMatch(/roost_http_request_duration_seconds_count\{operation="createSandbox",status="201"\} 1/);
  expect(text).toMatch(/roost_sandboxes\{state="running"\} 1/);
  expect(text).toMatch(/roost_host_watched\{host="host-1"\} 1/);
});

test("the reference is served from here, with a policy that allows nothing else", async () => {
  const moved = await fetch(`${world.url}/docs/`, { redirect: "manual" });
  expect([moved.status, moved.headers.get("location")]).toEqual([308, "/docs"]);
  const page = await fetch(`${world.url}/docs`);
  expect(page.headers.get("content-security-policy")).toContain("default-src 'none'");
  const html = await page.text();
  expect(html).not.toMatch(/https?:\/\//);
  for (const [, path = ""] of html.matchAll(/(?:src|href)="([^"]+)"/g)) {
    const file = await fetch(world.url + path);
    expect(file.status, path).toBe(200);
    expect((await file.arrayBuffer()).byteLength).toBeGreaterThan(50);
  }
  const openApi = (await (await fetch(`${world.url}/openapi.json`)).json()) as { openapi: string; paths: Record<string, unknown> };
  expect(openApi.openapi).toBe("3.1.0");
  expect(Object.keys(openApi.paths)).toContain("/v1/sandboxes/{id}/exec/stream");
});

test("answers are not cached, sniffed or guessed at", async () => {
  const answer = await world.request("GET", "/v1/sandboxes");
  expect(answer.headers.get("cache-control")).toBe("no-store");
  expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  await answer.text();
});

test("a caller who hangs up during a create gets no sandbox", async () => {
  let release = () => {};
  world.host.createGate = new Promise((resolve) => {
    release = resolve;
  });
  const before = new Set(world.host.sandboxes.keys());
  const gone = new AbortController();
  const asking = fetch(`${world.url}/v1/sandboxes`, { method: "POST", headers: { "x-api-key": world.key }, signal: gone.signal });
  asking.catch(() => undefined);
  const id = await poll({ what: "the create", timeoutMs: 30_000, intervalMs: 2 }, () =>
    [...world.host.sandboxes.keys()].find((key) => !before.has(key)),
  );
  gone.abort();
  await poll({ what: "its end", timeoutMs: 30_000, intervalMs: 2 }, () => (world.host.sandboxes.has(id) ? undefined : true));
  release();
  world.host.createGate = undefined;
  await expect
    .poll(async () => ((await (await world.request("GET", `/v1/sandboxes/${id}`)).json()) as { state: string }).state)
    .toBe("stopped");
});

test("a body that dribbles in is answered and cut off; what comes in time is not", async () => {
  const { port } = new URL(world.url);
  const head = `POST /v1/sandboxes HTTP/1.1\r\nhost: x\r\nx-api-key: ${world.key}\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n`;
  const answer = await new Promise<string>((resolve) => {
    const socket = connect(Number(port), "127.0.0.1");
    const chunks: Buffer[] = [];
    const dribble = setInterval(() => socket.write(" "), 50);
    socket.write(head);
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("error", () => undefined); // close follows
    socket.on("close", () => {
      clearInterval(dribble);
      resolve(Buffer.concat(chunks).toString("latin1"));
    });
  });
  expect(answer).toMatch(/^HTTP\/1.1 400 /);
  expect(errorIn(answer)).toMatchObject({ code: "request_invalid", message: expect.stringContaining("did not arrive") });
  expect((await world.request("POST", "/v1/sandboxes", {})).status).toBe(201);
});

test("an upload nobody may make is not read to its end", async () => {
  const { port } = new URL(world.url);
  const answer = await new Promise<string>((resolve) => {
    const socket = connect(Number(port), "127.0.0.1");
    const chunks: Buffer[] = [];
    socket.write(`PUT /v1/sandboxes/i1/files?path=/x HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n`);
    const flood = setInterval(() => socket.write(Buffer.alloc(64 * 1024)), 5);
    socket.on("data", (chunk) => chunks.push(chunk));
    socket.on("error", () => undefined); // close follows
    socket.on("close", () => {
      clearInterval(flood);
      resolve(Buffer.concat(chunks).toString("latin1"));
    });
  });
  expect(answer).toMatch(/^HTTP\/1.1 401 /);
});
