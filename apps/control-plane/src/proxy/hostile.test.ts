import { request as httpRequest } from "node:http";

import { guestAgentPort } from "@roost/contract";
import { poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import { ProxyLab } from "../testing/proxy-lab.ts";

/** Guests that answer what no server should, and clients that ask what no client should. Nobody else may notice. */

let lab: ProxyLab;
eachProxyLab(async (fresh) => {
  lab = fresh;
  lab.sandbox(id);
  lab.sandbox("other");
  await lab.serve("other", app, (_request, response) => response.end("fine"));
});
afterEach(async () => {
  expect((await lab.fetch({ id: "other", port: app })).body).toBe("fine");
});

const host = `${app}-${id}.x`;
/** Sends bytes and answers what came until the end. */
const raw = async (text: string) => {
  const connection = await lab.connect();
  connection.write(text);
  await until("the end", () => connection.end !== undefined);
  return connection.received;
};

describe("a guest that answers", () => {
  const answering = async (answer: string) => {
    await lab.serveRaw(id, app, (socket) => {
      socket.once("data", () => socket.write(answer, "latin1"));
    });
    return raw(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
  };

  test.each([
    ["no HTTP", "SSH-2.0-OpenSSH_9\r\n"],
    ["nonsense", "\0\u0001\u0002\u00ff\u00fe"],
    ["a malformed status line", "HTTP/1.1 2x0 OK\r\n\r\n"],
    ["another version", "HTTP/9.9 200 OK\r\n\r\n"],
    ["a status that is none", "HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n"],
    ["a header without a name", "HTTP/1.1 200 OK\r\n: x\r\n\r\n"],
    ["a header name with a space", "HTTP/1.1 200 OK\r\nX Y: z\r\n\r\n"],
    ["a bare line feed in a value", "HTTP/1.1 200 OK\r\nX: a\rSet-Cookie: b\r\n\r\n"],
    ["a control character in a value", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"],
    ["two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"],
    ["a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
    ["a length and chunks", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"],
    ["headers without end", `HTTP/1.1 200 OK\r\nX: ${"y".repeat(100_000)}`],
    ["many headers", `HTTP/1.1 200 OK\r\n${"X: y\r\n".repeat(20_000)}\r\n`],
    ["many interim responses", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(1_000)],
  ])("%s: 502, nothing of it passed on", async (_what, answer) => {
    const got = await answering(answer);
    expect(got).toMatch(/^HTTP\/1\.1 502 Bad Gateway\r\n/);
    expect(got).toContain(`"sandboxId":"${id}"`);
    expect(got.match(/HTTP\/1\.1/g)).toHaveLength(1);
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test.each([
    ["fewer bytes than it said", "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc", true],
    ["a malformed chunk", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n", false],
    ["a chunk longer than it said", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcdef\r\n0\r\n\r\n", false],
  ])("%s: the client's connection is cut in the answer", async (_what, answer, isClosed) => {
    await lab.serveRaw(id, app, (socket) => {
      socket.once("data", () => {
        socket.write(answer);
        if (isClosed) setTimeout(() => socket.end(), 50);
      });
    });
    await expect(lab.fetch({ id, port: app })).rejects.toThrow(/aborted|hang up|ECONNRESET/);
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("more bytes than it said: the rest is nobody's answer", async () => {
    await lab.serveRaw(id, app, (socket) => {
      socket.on("data", () =>
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged"),
      );
    });
    for (let round = 0; round < 3; round += 1) expect((await lab.fetch({ id, port: app })).body).toMatch(/^(abc|forged)$/); // its own words, to its own client
    expect((await lab.fetch({ id: "other", port: app })).body).toBe("fine");
  });

  test("headers that mean this connection are not passed on", async () => {
    const got = await answering(
      "HTTP/1.1 200 OK\r\nConnection: X-Gone, close\r\nX-Gone: 1\r\nUpgrade: h2c\r\nProxy-Authenticate: Basic\r\nContent-Length: 2\r\n\r\nok",
    );
    expect(got).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(got).not.toMatch(/x-gone|upgrade|h2c/i);
    expect(got).toMatch(/\r\n\r\nok$/);
  });

  test("a reason phrase of its own: the usual one is said instead", async () => {
    expect(await answering("HTTP/1.1 200 <script>\r\nContent-Length: 0\r\n\r\n")).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  });

  test("random bytes in answers never pass as anything else", { timeout: 60_000 }, async () => {
    const random = new SeededRandom();
    for (let round = 0; round < 40; round += 1) {
      const good = Buffer.from(
        "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nX-A: b\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
      );
      for (let flips = 0; flips <= random.integer(4); flips += 1) good[random.integer(good.length)] = random.integer(256);
      const server = await lab.serveRaw(id, app, (socket) => {
        socket.once("data", () => socket.end(good));
      });
      const got = await raw(`GET / HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n\r\n`);
      expect(got, `SEED=${random.seed}`).toMatch(/^HTTP\/1\.1 \d{3} /);
      expect(got.match(/HTTP\/1\.1 /g), `SEED=${random.seed}`).toHaveLength(1);
      server.close();
    }
  });
});

describe("a client that tries to have two servers read different requests", () => {
  const seen: string[] = [];
  beforeEach(async () => {
    seen.length = 0;
    await lab.serve(id, app, (request, response) => {
      seen.push(request.url ?? "");
      request.resume();
      request.on("end", () => response.end("guest"));
    });
  });
  const smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";

  test.each([
    ["length and chunks", `Content-Length: ${smuggled.length + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["chunks and length", `Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n${smuggled}`],
    ["two lengths", `Content-Length: 0\r\nContent-Length: ${smuggled.length}\r\n\r\n${smuggled}`],
    ["a list of lengths", `Content-Length: 0, ${smuggled.length}\r\n\r\n${smuggled}`],
    ["a signed length", `Content-Length: +${smuggled.length}\r\n\r\n${smuggled}`],
    ["a space before the colon", `Content-Length : ${smuggled.length}\r\n\r\n${smuggled}`],
    ["an unknown coding", `Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["a coding in quotes", `Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n${smuggled}`],
    ["codings in the wrong order", `Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n${smuggled}`],
    ["another coding before chunks", `Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["two codings", `Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n${smuggled}`],
    ["a folded header", `X: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n${smuggled}`],
    ["a bare line feed", `X: a\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n${smuggled}`],
    ["a chunk size that overflows", `Transfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n${smuggled}`],
    ["a chunk size in another form", `Transfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n0\r\n\r\n${smuggled}`],
    ["a chunk extension with a line feed", `Transfer-Encoding: chunked\r\n\r\n0;a=\n\r\n\r\n${smuggled}`],
  ])("%s", async (_what, rest) => {
    const connection = await lab.connect();
    connection.write(`POST /first HTTP/1.1\r\nHost: ${host}\r\n${rest}`);
    await until("an answer or the end", () => connection.end !== undefined || connection.received.includes("\r\n\r\n"));
    connection.socket.end();
    await until("the end", () => connection.end !== undefined);
    // What comes after is at best a request to this server, and then one for the control plane: never a guest's.
    expect(seen).not.toContain("/smuggled");
    expect(seen.length).toBeLessThanOrEqual(1);
  });

  test("a body that looks like a request stays a body", async () => {
    for (const [framing, body] of [
      [`Content-Length: ${smuggled.length}`, smuggled],
      ["Transfer-Encoding: chunked", `${smuggled.length.toString(16)}\r\n${smuggled}\r\n0\r\n\r\n`],
    ] as const) {
      for (const method of ["GET", "DELETE", "POST", "OPTIONS"]) {
        expect(await raw(`${method} /first HTTP/1.1\r\nHost: ${host}\r\nConnection: close\r\n${framing}\r\n\r\n${body}`)).toMatch(
          /^HTTP\/1\.1 200 /,
        );
      }
    }
    expect(new Set(seen)).toEqual(new Set(["/first"]));
  });

  test("headers that only this server may write, written twice or otherwise", async () => {
    let raws: readonly string[] = [];
    await lab.serve(id, 4000, (request, response) => {
      raws = request.rawHeaders.map((text) => text.toLowerCase());
      response.end();
    });
    await raw(
      `GET / HTTP/1.1\r\nHost: 4000-${id}.x\r\nX-FORWARDED-FOR: a\r\nx-Forwarded-For: b\r\nX-Forwarded-Host: c\r\nx-access-token: d\r\nX-ACCESS-TOKEN: e\r\nConnection: close, host, x-forwarded-for\r\n\r\n`,
    );
    const count = (name: string) => raws.filter((text, index) => index % 2 === 0 && text === name).length;
    expect([count("host"), count("x-forwarded-for"), count("x-forwarded-host"), count("x-access-token")]).toEqual([1, 1, 1, 0]);
  });

  test("several hosts and sandbox ids", async () => {
    expect(await raw(`GET / HTTP/1.1\r\nHost: ${host}\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n`)).toMatch(/^HTTP\/1\.1 (200|400)/);
    const two = `GET / HTTP/1.1\r\nHost: x\r\nE2b-Sandbox-Id: ${id}\r\nE2b-Sandbox-Id: other\r\nE2b-Sandbox-Port: ${app}\r\nConnection: close\r\n\r\n`;
    expect(await raw(two)).toMatch(/^HTTP\/1\.1 400 [^]*E2b-Sandbox-Id/);
  });
});

describe("a client that is slow or gone", () => {
  test("one that dribbles its head is closed in time, and none reaches the guest", { timeout: 60_000 }, async () => {
    await using strict = await ProxyLab.start({ headersTimeoutMs: 500 });
    strict.sandbox(id);
    let requests = 0;
    await strict.serve(id, app, (_request, response) => {
      requests += 1;
      response.end("served");
    });
    const slow = await Promise.all(Array.from({ length: 100 }, async () => strict.connect()));
    const timer = setInterval(() => {
      for (const connection of slow) if (connection.end === undefined) connection.write("X");
    }, 50);
    for (const connection of slow) connection.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nX-`);
    expect((await strict.fetch({ id, port: app })).body).toBe("served");
    await until("the end of all", () => slow.every((connection) => connection.end !== undefined));
    clearInterval(timer);
    expect(requests).toBe(1);
    expect(strict.dials).toBe(1);
  });

  test("one whose body stops is cut after the idle time, on both sides", async () => {
    await using impatient = await ProxyLab.start({ idleTimeoutMs: 300 });
    impatient.sandbox(id);
    let hasBroken = false;
    await impatient.serve(id, app, (request) => {
      request.on("error", () => (hasBroken = true));
      request.resume();
    });
    const connection = await impatient.connect();
    connection.write(`POST / HTTP/1.1\r\nHost: ${host}\r\nContent-Length: 1000\r\n\r\nabc`);
    await until("the end in the guest", () => hasBroken);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 504 /);
  });

  test("one that ends its half after the request is gone; nothing is left", async () => {
    await lab.serve(id, app, () => undefined);
    const connection = await lab.connect();
    connection.write(`GET / HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
    await until("the request", () => lab.tunnels.size === 1);
    connection.socket.end();
    await until("no tunnel", () => lab.tunnels.size === 0);
  });

  test("hundreds that leave at any moment", { timeout: 60_000 }, async () => {
    await lab.serve(id, app, (request, response) => {
      request.on("error", () => undefined);
      request.pipe(response);
    });
    const random = new SeededRandom();
    await Promise.all(
      Array.from({ length: 300 }, async () => {
        const connection = await lab.connect();
        const text = `POST / HTTP/1.1\r\nHost: ${host}\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n`;
        connection.write(text.slice(0, random.integer(text.length + 1)));
        await new Promise((resolve) => setTimeout(resolve, random.integer(20)));
        if (random.integer(2) === 0) connection.socket.destroy();
        else connection.socket.resetAndDestroy();
      }),
    );
    await poll({ what: "no client", timeoutMs: 30_000 }, async () => ((await lab.clientCount()) === 0 ? true : undefined));
    // Whole exchanges leave a connection that is kept for a moment.
    await until("only kept tunnels", () => lab.tunnels.size <= 16);
  });

  test("one with a head above the limit is refused", async () => {
    const connection = await lab.connect();
    connection.write(`GET / HTTP/1.1\r\nHost: ${host}\r\nX: ${"y".repeat(40_000)}\r\n\r\n`);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 431 /);
    // Short ones, so many that Node would not show the last
    expect(await raw(`POST / HTTP/1.1\r\nHost: ${host}\r\n${"a: b\r\n".repeat(2_100)}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n`)).toMatch(
      /^HTTP\/1\.1 431 /,
    );
    expect(lab.dials).toBe(0);
  });
});

test("random targets and headers to the guest agent never reach more than its public endpoints", { timeout: 60_000 }, async () => {
  const seen = new Set<string>();
  await lab.serve(id, guestAgentPort, (request, response) => {
    seen.add((request.url ?? "").split("?", 1)[0] ?? "");
    request.resume();
    response.end();
  });
  const random = new SeededRandom();
  const pieces = [
    "/",
    "init",
    "health",
    "files",
    "..",
    ".",
    "%2e",
    "%2F",
    "//",
    "?",
    "#",
    ";",
    "\\",
    "process.Process",
    "Start",
    "compose",
    "%00",
    "@",
  ] as const;
  for (let round = 0; round < 300; round += 1) {
    const path = `/${Array.from({ length: random.integer(6) }, () => random.pick([...pieces])).join("")}`;
    await new Promise<void>((resolve) => {
      const request = httpRequest(lab.options({ id, path, method: random.pick(["GET", "POST"]) }), (response) => {
        response.resume();
        response.on("close", resolve);
      });
      request.on("error", () => resolve());
      request.end();
    });
  }
  for (const path of seen) expect(path, `SEED=${random.seed}`).toMatch(/^\/(health|files|files\/compose|process\.Process\/[A-Za-z]+)$/);
});
