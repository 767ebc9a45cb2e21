import { createHash } from "node:crypto";
import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";

import { guestAgentPort, PlatformError } from "@roost/contract";
import { poll } from "@roost/kit";
import { beforeEach, describe, expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import type { ProxyLab } from "../testing/proxy-lab.ts";

/** Which sandboxes can be reached, by whom, and what everybody else is told. */

let lab: ProxyLab;
eachProxyLab((fresh) => {
  lab = fresh;
});

const gone = { sandboxId: id, message: "The sandbox was not found", code: 502 };
/** A guest that tells the headers it got. */
const serve = async (port = app, sandboxId = id) =>
  lab.serve(sandboxId, port, (request, response) => response.end(JSON.stringify({ url: request.url, headers: request.headers })));
const headersIn = async (request: Parameters<ProxyLab["fetch"]>[0]) =>
  ((await lab.fetch({ id, ...request })).json() as { headers: Record<string, string> }).headers;

describe("a sandbox that is not there is 502", () => {
  test("one that never was", async () => {
    const answer = await lab.fetch({ id, path: "/health" });
    expect(answer).toMatchObject({
      status: 502,
      headers: { "content-type": "application/json; charset=utf-8", "access-control-allow-origin": "*" },
    });
    expect(answer.json()).toEqual(gone);
  });

  test.each([
    ["one that ended", { state: "stopped" }],
    ["one that is ending", { state: "stopping" }],
    ["one that failed", { state: "failed" }],
    ["one that was killed and still runs", { time_delete_requested: new Date() }],
    ["one whose time is up", { time_expires: new Date(Date.now() - 1) }],
    ["a paused one that no request resumes", { state: "paused", time_paused: new Date() }],
  ] as const)("%s", async (_what, row) => {
    lab.sandbox(id, row);
    await serve(guestAgentPort);
    const answer = await lab.fetch({ id, path: "/health" });
    expect(answer.status).toBe(502);
    expect(answer.json()).toEqual(gone);
    expect(lab.dials).toBe(0);
    expect(lab.wakes).toBe(0);
  });

  test("also when it was there a moment ago", async () => {
    lab.sandbox(id);
    await serve(guestAgentPort);
    expect((await lab.fetch({ id, path: "/health" })).status).toBe(200);
    lab.sandbox(id, { time_delete_requested: new Date() });
    expect((await lab.fetch({ id, path: "/health" })).json()).toEqual(gone);
  });

  test("a stream is cut when the sandbox is killed: not ended, and 502 from then on", async () => {
    lab.sandbox(id);
    await lab.serve(id, guestAgentPort, (_request, response) => void response.writeHead(200).write("begun"));
    const connection = await lab.connect();
    connection.write(`GET /health HTTP/1.1\r\nHost: ${guestAgentPort}-${id}.x\r\n\r\n`);
    await until("the stream", () => connection.received.endsWith("begun\r\n"));
    lab.endVm(id, { state: "stopped" });
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).not.toContain("\r\n0\r\n");
    expect((await lab.fetch({ id, path: "/health" })).json()).toEqual(gone);
    await until("no open tunnel", () => lab.tunnels.size === 0);
  });

  test("a request that waits for its answer when the sandbox is killed", async () => {
    lab.sandbox(id);
    await lab.serve(id, app, () => undefined);
    const answering = lab.fetch({ id, port: app });
    await until("the request", () => lab.tunnels.size === 1);
    lab.endVm(id, { state: "stopped" });
    expect((await answering).json()).toEqual(gone);
  });

  test("an answer that only ends with its connection is cut, too", async () => {
    lab.sandbox(id);
    await lab.serveRaw(id, app, (socket) => socket.write("HTTP/1.0 200 OK\r\n\r\nbegun"));
    const answered = lab.fetch({ id, port: app });
    answered.catch(() => undefined);
    await until("the answer", () => lab.tunnels.size === 1);
    await new Promise((resolve) => setTimeout(resolve, 50));
    lab.endVm(id, { state: "stopped" });
    await expect(answered).rejects.toThrow("aborted");
  });
});

describe("a paused sandbox that requests resume", () => {
  beforeEach(() => {
    lab.sandbox(id, { state: "paused", time_paused: new Date(), auto_resume: true });
    lab.wake = async () => lab.sandbox(id, { state: "running", time_paused: null, time_started: new Date(2_000) });
  });

  test("is resumed by one", async () => {
    await serve();
    expect((await lab.fetch({ id, port: app })).status).toBe(200);
    expect(lab.wakes).toBe(1);
  });

  test("with its body", async () => {
    await lab.serve(id, app, (request, response) => {
      const hash = createHash("sha256");
      request.on("data", (chunk: Buffer) => hash.update(chunk));
      request.on("end", () => response.end(hash.digest("hex")));
    });
    const body = Buffer.alloc(5_000_000, "x");
    expect((await lab.fetch({ id, port: app, method: "POST", body })).body).toBe(createHash("sha256").update(body).digest("hex"));
  });

  test("not by one that may not reach the port", async () => {
    lab.sandbox(id, { network: {}, traffic_token: "right" });
    expect((await lab.fetch({ id, port: app })).status).toBe(403);
    expect((await lab.fetch({ id, path: "/init", method: "POST" })).status).toBe(404);
    expect(lab.wakes).toBe(0);
  });

  test("not when it was paused without its memory", async () => {
    lab.sandbox(id, { has_memory: false });
    const answer = await lab.fetch({ id, port: app });
    expect(answer.status).toBe(403);
    expect(answer.json()).toMatchObject({ sandboxId: id, code: 403 });
    expect(lab.wakes).toBe(0);
  });

  test.each([
    ["capacity_exhausted", 503],
    ["sandbox_resume_failed", 502],
    ["sandbox_not_found", 502],
  ] as const)("and cannot be: %s", async (code, status) => {
    lab.wake = async () => {
      throw new PlatformError(code, "in words", { retryAfterSec: 7 });
    };
    const answer = await lab.fetch({ id, port: app });
    expect(answer.status).toBe(status);
    expect(answer.json()).toEqual(code === "sandbox_not_found" ? gone : { sandboxId: id, message: "in words", code: status });
  });

  test("a client that does not wait for it is no problem", async () => {
    let finish = () => {};
    lab.wake = async () =>
      new Promise((resolve) => {
        finish = () => {
          lab.sandbox(id, { state: "running", time_paused: null });
          resolve(undefined);
        };
      });
    await serve();
    const request = httpRequest(lab.options({ id, port: app }));
    request.on("error", () => undefined);
    request.end();
    await until("the wake", () => lab.wakes === 1);
    request.destroy();
    await poll({ what: "the client's end", timeoutMs: 30_000, intervalMs: 5 }, async () =>
      (await lab.clientCount()) === 0 ? true : undefined,
    );
    finish();
    await until("the result", () => lab.results.length === 1);
    expect(lab.dials).toBe(0);
  });

  test("when the record does not know yet that it is paused", async () => {
    await serve();
    let isPaused = true;
    lab.sandbox(id, { state: "running", time_paused: null });
    lab.onDial = () => {
      // The host, which is asked first, is ahead of the record.
      if (isPaused) throw new PlatformError("sandbox_wrong_state", "it is paused");
    };
    lab.wake = async () => {
      isPaused = false;
    };
    expect((await lab.fetch({ id, port: app, method: "POST", body: "x" })).status).toBe(200);
    expect(lab.wakes).toBe(1);
  });
});

describe("a sandbox whose state is changing", () => {
  test.each(["creating", "pausing", "resuming"] as const)("%s is waited for, and used when it runs", async (state) => {
    lab.sandbox(id, { state });
    await serve();
    const answering = lab.fetch({ id, port: app });
    await until("the look", () => lab.finds > 0);
    lab.sandbox(id, { state: "running" });
    expect((await answering).status).toBe(200);
  });

  test("that is paused afterwards is 502", async () => {
    lab.sandbox(id, { state: "pausing" });
    const answering = lab.fetch({ id, port: app });
    await until("the look", () => lab.finds > 0);
    lab.sandbox(id, { state: "paused", time_paused: new Date() });
    expect((await answering).json()).toEqual(gone);
  });

  test("for long is 409", async () => {
    lab.sandbox(id, { state: "pausing" });
    const answer = await lab.fetch({ id, port: app });
    expect(answer).toMatchObject({ status: 409, headers: { "retry-after": "1" } });
    expect(answer.json()).toEqual({ sandboxId: id, message: expect.any(String) as string, code: 409 });
  });

  test("is used while it is saved: its guest runs on", async () => {
    await serve();
    lab.sandbox(id, { state: "snapshotting" });
    lab.onDial = () => {
      lab.sandbox(id, { state: "running" });
    };
    expect((await lab.fetch({ id, port: app })).status).toBe(200);
    expect(lab.wakes).toBe(0);
  });

  test("whose host never agrees with the record is 409", async () => {
    lab.sandbox(id);
    lab.onDial = () => {
      throw new PlatformError("sandbox_wrong_state", "it is not running");
    };
    expect((await lab.fetch({ id, port: app })).status).toBe(409);
    expect(lab.dials).toBe(3);
  });
});

describe("ports", () => {
  test("are closed without the traffic token, unless they are public", async () => {
    lab.sandbox(id, { network: {}, traffic_token: "right" });
    await serve();
    expect((await lab.fetch({ id, port: app })).json()).toMatchObject({ sandboxId: id, code: 403 });
    for (const token of ["", "wrong", "righ", "rightt", "right, right"]) {
      expect((await lab.fetch({ id, port: app, headers: { "e2b-traffic-access-token": token } })).status, token).toBe(403);
    }
    expect(lab.dials).toBe(0);
    const answer = await lab.fetch({ id, port: app, headers: { "e2b-traffic-access-token": "right" } });
    expect(answer.status).toBe(200);
    lab.sandbox(id, { network: { is_public: true } });
    expect((await lab.fetch({ id, port: app })).status).toBe(200);
    lab.sandbox(id, { network: { is_public: false } });
    expect((await lab.fetch({ id, port: app })).status).toBe(403);
  });

  test("are closed to everybody without a token that could open them", async () => {
    lab.sandbox(id, { network: {}, traffic_token: null });
    await serve();
    for (const token of ["", "null", "undefined"]) {
      expect((await lab.fetch({ id, port: app, headers: { "e2b-traffic-access-token": token } })).status).toBe(403);
    }
  });

  test("the guest agent's needs no traffic token, and internal endpoints are not there", async () => {
    lab.sandbox(id, { network: {} });
    await serve(guestAgentPort);
    expect((await lab.fetch({ id, path: "/health" })).status).toBe(200);
    const answer = await lab.fetch({ id, path: "/init", method: "POST", body: "{}", headers: { "x-access-token": `token-of-${id}` } });
    expect(answer.status).toBe(404);
    expect(answer.json()).toEqual({ sandboxId: id, message: "there is no such endpoint", code: 404 });
  });

  test("the access token goes to the guest agent, and to no other port", async () => {
    lab.sandbox(id);
    await serve();
    await serve(guestAgentPort);
    const headers = { "x-access-token": "given", "x-api-key": "e2b_00" };
    expect(await headersIn({ path: "/envs", headers })).toMatchObject({ "x-access-token": "given" });
    expect(await headersIn({ path: "/envs", headers })).not.toHaveProperty("x-api-key");
    expect(await headersIn({ port: app, headers })).not.toHaveProperty("x-access-token");
    expect(await headersIn({ port: app, headers })).toMatchObject({ "x-api-key": "e2b_00" });
    expect(await headersIn({ path: "/envs" })).not.toHaveProperty("x-access-token");
  });

  test("for a sandbox without security the access token is added, whatever the caller sends", async () => {
    lab.sandbox(id, { is_secure: false });
    await serve();
    await serve(guestAgentPort);
    expect(await headersIn({ path: "/envs" })).toMatchObject({ "x-access-token": `token-of-${id}` });
    expect(await headersIn({ path: "/envs", headers: { "x-access-token": "wrong" } })).toMatchObject({
      "x-access-token": `token-of-${id}`,
    });
    expect(await headersIn({ port: app })).not.toHaveProperty("x-access-token");
  });
});

describe("refusals", () => {
  test("headers that name no sandbox are 400", async () => {
    const answer = await lab.fetch({ headers: { "e2b-sandbox-id": "NOT-AN-ID", "e2b-sandbox-port": "80" } });
    expect(answer.status).toBe(400);
    expect(answer.json()).toEqual({ code: 400, message: expect.stringContaining("E2b-Sandbox-Id") as string });
  });

  test("a browser gets a page, and nothing in it runs", async () => {
    const browser = { "user-agent": "Mozilla/5.0 (X11; Linux x86_64)", accept: "text/html,application/xhtml+xml,*/*;q=0.8" };
    const answer = await lab.fetch({ headers: { host: `3000-${id}.example.org`, ...browser } });
    expect(answer).toMatchObject({
      status: 502,
      headers: {
        "content-type": "text/html; charset=utf-8",
        "content-security-policy": expect.stringContaining("default-src 'none'") as string,
      },
    });
    expect(answer.body).toContain("The sandbox was not found");
    expect(answer.body).toContain(id);
    expect((await lab.fetch({ id, headers: { ...browser, accept: "*/*" } })).json()).toEqual(gone);
    expect((await lab.fetch({ id, headers: { accept: "text/html" } })).json()).toEqual(gone);
    expect(await lab.fetch({ id, method: "HEAD", headers: browser })).toMatchObject({ status: 502, body: "" });
  });

  test("the client of an upload hears why it is refused, and its connection is closed", async () => {
    const request = httpRequest(lab.options({ id, method: "POST", path: "/files?path=x" }));
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      request.once("response", resolve);
      request.once("error", reject);
    });
    for (let index = 0; index < 40; index += 1) request.write(Buffer.alloc(256 * 1024));
    request.end();
    const answer = await answered;
    answer.resume();
    expect(answer).toMatchObject({ statusCode: 502, headers: { connection: "close" } });
  });

  test("above what one sandbox may have open it is 429, and others are not affected", { timeout: 120_000 }, async () => {
    lab.sandbox(id);
    lab.sandbox("other");
    await serve(app, "other");
    await lab.serve(id, app, () => undefined);
    const open: ClientRequest[] = [];
    // Not all at once: a slow machine would not accept them in time
    while (open.length < 1_536) {
      for (let index = 0; index < 64; index += 1) {
        const request = httpRequest(lab.options({ id, port: app }));
        request.on("error", () => undefined);
        request.end();
        open.push(request);
      }
      await until("the requests so far", () => lab.tunnels.size === open.length);
    }
    expect(await lab.fetch({ id, port: app })).toMatchObject({ status: 429, headers: { "retry-after": "1" } });
    expect((await lab.fetch({ id: "other", port: app })).status).toBe(200);
    for (const request of open) request.destroy();
    await until("the end of all", () => lab.tunnels.size <= 1);
    const again = httpRequest(lab.options({ id, port: app }));
    again.on("error", () => undefined);
    again.end();
    await until("room again", () => lab.tunnels.size >= 1);
    again.destroy();
  });
});

describe("signed URLs", () => {
  const sign = (path: string, operation: string, token: string, user = "", expiration?: number) =>
    `v1_${createHash("sha256")
      .update([path, operation, user, token, ...(expiration === undefined ? [] : [expiration])].join(":"))
      .digest("base64")
      .replaceAll("=", "")}`;
  const url = (query: Record<string, string>) => `/files?${new URLSearchParams(query).toString()}`;
  const ask = (path: string, options: object = {}) => lab.fetch({ path, ...options });
  beforeEach(async () => {
    for (const name of ["one", "two", "three"]) {
      lab.sandbox(name);
      await lab.serve(name, guestAgentPort, (request, response) => {
        response.setHeader("set-cookie", "x=1");
        response.setHeader("content-security-policy", "default-src *");
        response.end(JSON.stringify({ name, url: request.url, headers: request.headers }));
      });
    }
  });

  test.each(["one", "two", "three"])("lead to the sandbox whose token signed: %s", async (name) => {
    const path = url({ path: "/home/user/ä.txt", signature: sign("/home/user/ä.txt", "read", `token-of-${name}`) });
    const answer = await ask(path);
    expect(answer.json()).toMatchObject({ name, url: path });
    expect(answer.json()).not.toHaveProperty("headers.x-access-token");
  });

  test("with user and expiry, for reading and writing", async () => {
    const query = { path: "x", username: "root", signature_expiration: "1900000000" };
    const read = url({ ...query, signature: sign("x", "read", "token-of-two", "root", 1_900_000_000) });
    const write = url({ ...query, signature: sign("x", "write", "token-of-two", "root", 1_900_000_000) });
    expect((await ask(read)).json()).toMatchObject({ name: "two" });
    expect((await ask(write, { method: "POST", body: "x" })).json()).toMatchObject({ name: "two" });
    expect((await ask(write)).status).toBe(401);
    expect((await ask(read, { method: "POST", body: "x" })).status).toBe(401);
    expect((await ask(write, { method: "OPTIONS", headers: { "access-control-request-method": "POST" } })).json()).toMatchObject({
      name: "two",
    });
    expect((await ask(read, { method: "DELETE" })).status).toBe(401);
  });

  test.each([
    ["another token", { path: "x", signature: sign("x", "read", "nobody's") }],
    ["another path", { path: "y", signature: sign("x", "read", "token-of-one") }],
    ["another user", { path: "x", username: "root", signature: sign("x", "read", "token-of-one") }],
    ["an expiry that was not signed", { path: "x", signature_expiration: "1", signature: sign("x", "read", "token-of-one") }],
    ["no expiry", { path: "x", signature: sign("x", "read", "token-of-one", "", 1) }],
    ["an expiry that is no number", { path: "x", signature_expiration: "1x", signature: sign("x", "read", "token-of-one") }],
    ["another version", { path: "x", signature: sign("x", "read", "token-of-one").replace("v1", "v2") }],
    ["nothing", { path: "x", signature: "" }],
    ["a long text", { path: "x", signature: `v1_${"a".repeat(20_000)}` }],
  ])("signed with %s is 401", async (_what, query) => {
    const answer = await ask(url(query));
    expect(answer.status).toBe(401);
    expect(answer.json()).toEqual({ code: 401, message: "invalid signature" });
  });

  test("of a sandbox that was made after the others were read, and of one whose token changed", async () => {
    expect((await ask(url({ path: "x", signature: sign("x", "read", "token-of-one") }))).status).toBe(200);
    lab.sandbox("four");
    await serve(guestAgentPort, "four");
    expect((await ask(url({ path: "x", signature: sign("x", "read", "token-of-four") }))).status).toBe(200);
    lab.sandbox("four", { access_token: "rotated" });
    expect((await ask(url({ path: "x", signature: sign("x", "read", "rotated") }))).status).toBe(200);
  });

  test("of a sandbox that ended are 502 or 401, never answered", async () => {
    const path = url({ path: "x", signature: sign("x", "read", "token-of-one") });
    expect((await ask(path)).status).toBe(200);
    lab.endVm("one", { state: "stopped", access_token: "" });
    expect([401, 502]).toContain((await ask(path)).status);
  });

  test("of a sandbox without security do not exist: it needs none, and its token is not to be found out", async () => {
    lab.sandbox("one", { is_secure: false });
    expect((await ask(url({ path: "x", signature: sign("x", "read", "token-of-one") }))).status).toBe(401);
  });

  test("give a browser nothing to run under the platform's origin", async () => {
    const answer = await ask(url({ path: "x", signature: sign("x", "read", "token-of-one") }));
    expect(answer.headers).toMatchObject({ "content-security-policy": "default-src 'none'; sandbox", "x-content-type-options": "nosniff" });
    expect(answer.headers).not.toHaveProperty("set-cookie");
  });

  test("sent to a sandbox by header are its guest agent's", async () => {
    const path = url({ path: "x", signature: "v1_whatever" });
    expect((await ask(path, { id: "three" })).json()).toMatchObject({ name: "three", url: path });
  });

  test("many at once that nobody signed cost few readings", async () => {
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => ask(url({ path: "x", signature: sign("x", "read", `guess-${index}`) }))),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 50 }, () => 401));
    expect(lab.lists).toBeLessThan(25);
  });
});
