import { createHash } from "node:crypto";
import { once } from "node:events";
import { mkdtemp, readFile, rm } from "node:fs/promises";
import type { IncomingMessage, ServerResponse } from "node:http";
import { request as httpsRequest } from "node:https";
import { connect, constants, type ClientHttp2Session, type ClientHttp2Stream, type OutgoingHttpHeaders } from "node:http2";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable, type Writable } from "node:stream";
import { buffer, text } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import { connect as connectTls } from "node:tls";

import { MiB, run, silentLogger } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { WebSocket, WebSocketServer } from "ws";

import { app, id, until } from "../testing/each-proxy-lab.ts";
import { ProxyLab } from "../testing/proxy-lab.ts";
import { EdgeCertificate, localAuthorityPath, localSandboxDomain } from "./edge-certificate.ts";
import { TlsDoor } from "./tls-door.ts";

/** Of what is sent in one piece, in `bytes`: Node holds up to 10 MiB of a connection */
const sliceBytes = 64 * 1024;
const authority = `${app}-${id}.${localSandboxDomain}`;

let dir: string;
let lab: ProxyLab;
let door: TlsDoor;
let ca: string;
let session: ClientHttp2Session;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "roost-tls-"));
  lab = await ProxyLab.start();
  lab.sandbox(id);
  const { pem } = await EdgeCertificate.open({ dir }, silentLogger);
  ca = await readFile(localAuthorityPath(dir), "utf8");
  door = await TlsDoor.listen(lab.server, { pem, host: "127.0.0.1", port: 0, log: silentLogger });
  session = connect(`https://${authority}`, { ca, createConnection: () => socketTo(authority) });
  session.on("error", () => undefined); // tests see it at their streams
});
afterEach(async () => {
  session.destroy();
  door.close();
  await lab[Symbol.asyncDispose]();
  await rm(dir, { recursive: true, force: true });
});

function socketTo(servername: string, protocol = "h2") {
  return connectTls({ port: door.port, host: "127.0.0.1", servername, ca, ALPNProtocols: [protocol] });
}

interface Answer {
  readonly status: number | undefined;
  readonly headers: Readonly<Record<string, unknown>>;
  readonly body: string;
}

async function answerOf(stream: ClientHttp2Stream): Promise<Answer> {
  const [headers] = (await once(stream, "response")) as [Record<string, unknown>];
  return { status: headers[":status"] as number, headers, body: await text(stream) };
}

async function closing(stream: ClientHttp2Stream): Promise<void> {
  await new Promise<void>((resolve) => stream.once("close", resolve));
}

async function ask(headers: OutgoingHttpHeaders, body?: string): Promise<Answer> {
  const stream = session.request({ ":path": "/", ":authority": authority, ...headers }, { endStream: body === undefined });
  if (body !== undefined) stream.end(body);
  return answerOf(stream);
}

describe("HTTP/2", () => {
  test("a request reaches the guest as HTTP/1.1 says it, and its answer comes back", async () => {
    await lab.serve(id, app, (request, response) => {
      response.setHeader("set-cookie", ["a=1", "b=2"]);
      response.setHeader("connection", "keep-alive");
      response.end(JSON.stringify({ url: request.url, method: request.method, headers: request.headers }));
    });
    const { status, headers, body } = await ask({ ":path": "/some?query", cookie: ["one=1", "two=2"], "x-mine": "yes", te: "trailers" });
    expect(status).toBe(200);
    expect(headers["set-cookie"]).toEqual(["a=1", "b=2"]);
    expect(headers).not.toHaveProperty("connection");
    const seen = JSON.parse(body) as { url: string; method: string; headers: Record<string, string> };
    expect(seen).toMatchObject({
      url: "/some?query",
      method: "GET",
      headers: {
        host: authority,
        cookie: "one=1; two=2",
        "x-mine": "yes",
        "x-forwarded-proto": "https",
        "x-forwarded-host": authority,
        "x-forwarded-for": "127.0.0.1",
      },
    });
    expect(Object.keys(seen.headers).filter((name) => name.startsWith(":"))).toEqual([]);
  });

  test("what is for no sandbox is the control plane's", async () => {
    const plain = connect("https://localhost", { ca, createConnection: () => socketTo("localhost") });
    expect(await answerOf(plain.request({ ":path": "/" }))).toMatchObject({ status: 200, body: "control" });
    plain.destroy();
  });

  test.each([
    ["with a length", { "content-length": "5" }],
    ["without one", {}],
  ])("a body %s arrives", async (_how, more) => {
    await lab.serve(id, app, (request, response) => void request.pipe(response));
    expect(await ask({ ":method": "POST", ...more }, "hello")).toMatchObject({ status: 200, body: "hello" });
  });

  test("methods that expect a body and have none, and answers without one", async () => {
    await lab.serve(id, app, (request, response) => {
      response.statusCode = request.method === "DELETE" ? 204 : 200;
      response.setHeader("x-length", request.headers["content-length"] ?? "none");
      response.end(request.method === "DELETE" ? undefined : "body");
    });
    expect(await ask({ ":method": "POST" })).toMatchObject({ status: 200, headers: { "x-length": "0" }, body: "body" });
    expect(await ask({ ":method": "HEAD" })).toMatchObject({ status: 200, body: "" });
    expect(await ask({ ":method": "DELETE" })).toMatchObject({ status: 204, body: "" });
  });

  test("trailers come through", async () => {
    await lab.serve(id, app, (_request, response) => {
      response.writeHead(200, { trailer: "grpc-status" });
      response.write("data");
      response.addTrailers({ "grpc-status": "0" });
      response.end();
    });
    const stream = session.request({ ":path": "/" });
    const trailers = once(stream, "trailers");
    expect(await answerOf(stream)).toMatchObject({ body: "data" });
    expect((await trailers)[0]).toMatchObject({ "grpc-status": "0" });
  });

  test("a client that waits to be told to send its body is told", async () => {
    await lab.serve(id, app, (request, response) => void request.pipe(response));
    const stream = session.request({ ":method": "POST", ":path": "/", expect: "100-continue" }, { endStream: false });
    await once(stream, "continue");
    stream.end("sent late");
    expect(await answerOf(stream)).toMatchObject({ body: "sent late" });
  });

  test("hints that come before the answer pass", async () => {
    await lab.serve(id, app, (_request, response) => {
      response.writeEarlyHints({ link: "</style.css>; rel=preload; as=style" }, () => response.end("page"));
    });
    const stream = session.request({ ":path": "/" });
    const hints = once(stream, "headers");
    expect(await answerOf(stream)).toMatchObject({ status: 200, body: "page" });
    expect((await hints)[0]).toMatchObject({ ":status": 103, link: "</style.css>; rel=preload; as=style" });
  });

  test("whose request it is its authority says, whatever stands in Host", async () => {
    await lab.serve(id, app, (request, response) => void response.end(request.headers.host));
    expect(await ask({ host: `49983-${id}.${localSandboxDomain}` })).toMatchObject({ status: 200, body: authority });
  });

  test("a signed URL becomes a cookie for TLS and this host name alone", async () => {
    lab.sandbox(id, { network: {} });
    await lab.serve(id, app, (_request, response) => void response.end("private"));
    expect(await ask({})).toMatchObject({ status: 403 });
    const grant = lab.portKeys.sign({ sandboxId: id, port: app, keyNumber: 1 }, new Date(Date.now() + 60_000));
    const visit = { "user-agent": "Mozilla/5.0", "sec-fetch-mode": "navigate" };
    const first = await ask({ ":path": `/page?roost_access=${grant}`, ...visit });
    expect(first).toMatchObject({ status: 302, headers: { location: "/page" } });
    const [cookie = ""] = first.headers["set-cookie"] as string[];
    expect(cookie).toMatch(/^__Host-roost_port=.*; HttpOnly; Secure; SameSite=Lax$/);
    expect(await ask({ ":path": "/page", cookie: cookie.split(";")[0] ?? "", ...visit })).toMatchObject({ status: 200, body: "private" });
  });

  test("events come as they are sent", async () => {
    let send: (line: string) => void = () => undefined;
    await lab.serve(id, app, (_request, response) => {
      response.writeHead(200, { "content-type": "text/event-stream" });
      send = (line) => response.write(line);
      send("data: 0\n\n");
    });
    const stream = session.request({ ":path": "/events" });
    for (let number = 0; number < 5; number += 1) {
      const [chunk] = (await once(stream, "data")) as [Buffer];
      expect(chunk.toString()).toBe(`data: ${number}\n\n`);
      send(`data: ${number + 1}\n\n`);
    }
    stream.destroy();
  });

  test("32 MiB up and down at once arrive whole, on four streams beside each other", { timeout: 120_000 }, async () => {
    await lab.serve(id, app, (request, response) => void request.pipe(response));
    const pieces = Array.from({ length: 4 }, (_, index) => Buffer.from(new SeededRandom(index + 1).bytes(8 * MiB)));
    const echoed = pieces.map(async (piece) => {
      const stream = session.request({ ":method": "POST", ":path": "/" });
      const slices = Array.from({ length: piece.length / sliceBytes }, (_, index) =>
        piece.subarray(index * sliceBytes, (index + 1) * sliceBytes),
      );
      const sent = pipeline(Readable.from(slices), stream as Writable, { end: true });
      const answer = createHash("sha256")
        .update(await buffer(stream))
        .digest("hex");
      await sent;
      return answer;
    });
    const digests = pieces.map((piece) => createHash("sha256").update(piece).digest("hex"));
    expect(await Promise.all(echoed)).toEqual(digests);
  });

  test("an answer that breaks off is reset: nobody takes it for a whole one", async () => {
    await lab.serve(id, app, (_request, response) => {
      response.writeHead(200);
      response.write("the first half");
      setTimeout(() => response.destroy(), 20);
    });
    const stream = session.request({ ":path": "/" });
    stream.on("error", () => undefined);
    stream.resume();
    await closing(stream);
    expect(stream.rstCode).toBe(constants.NGHTTP2_INTERNAL_ERROR);
  });

  test("a client that resets its stream is gone for the guest, and its other streams go on", async () => {
    let isGone = false;
    await lab.serve(id, app, (request, response) => {
      if (request.url !== "/endless") return void response.end("still here");
      response.write("begun");
      response.once("close", () => (isGone = true));
    });
    const endless = session.request({ ":path": "/endless" });
    await once(endless, "data");
    endless.close(constants.NGHTTP2_CANCEL);
    await until("the guest to see that nobody reads", () => isGone);
    expect(await ask({})).toMatchObject({ body: "still here" });
  });

  test("a client that does not read holds the guest back", async () => {
    let sent = 0;
    let isHeld = false;
    const flood = async (response: ServerResponse) => {
      for (let count = 0; count < 512 && !response.destroyed; count += 1) {
        const goesOn = response.write(Buffer.alloc(256 * 1024));
        sent += 256 * 1024;
        if (!goesOn) {
          const drained = once(response, "drain");
          isHeld = (await Promise.race([drained, new Promise((resolve) => setTimeout(resolve, 500, "held"))])) === "held";
          if (isHeld) return;
        }
      }
    };
    await lab.serve(id, app, (_request, response) => void flood(response));
    const stream = session.request({ ":path": "/" });
    await once(stream, "response");
    stream.pause();
    await until("the guest to wait for its reader", () => isHeld);
    expect(sent).toBeLessThan(32 * MiB);
    stream.close();
  });

  test.each(["CONNECT", "TRACE\r\nx"])("the method %j is refused, and the connection goes on", async (method) => {
    await lab.serve(id, app, (_request, response) => void response.end("ok"));
    const stream =
      method === "CONNECT"
        ? session.request({ ":method": method, ":authority": "example.org:443" })
        : session.request({ ":method": method, ":path": "/" });
    stream.on("error", () => undefined);
    const answered = new Promise((resolve) => stream.once("response", (headers) => resolve(headers[":status"])));
    const event = await Promise.race([answered, closing(stream).then(() => "closed")]);
    expect([501, "closed"]).toContain(event);
    expect(await ask({})).toMatchObject({ body: "ok" });
  });

  test("draining lets streams end, takes no new connections, and closing cuts what is left", async () => {
    let finish: () => void = () => undefined;
    await lab.serve(id, app, (_request, response) => {
      response.write("one ");
      finish = () => response.end("two");
    });
    const stream = session.request({ ":path": "/" });
    await once(stream, "response");
    const { port } = door;
    door.drain();
    await expect(once(connectTls({ port, host: "127.0.0.1" }), "secureConnect")).rejects.toThrow(/ECONNREFUSED/);
    finish();
    expect(await text(stream)).toBe("one two");
    door.close();
    await until("the connection to be closed", () => session.closed || session.destroyed);
  });
});

describe("HTTP/1.1", () => {
  test("requests by TLS are as without", async () => {
    await lab.serve(id, app, (request, response) => void response.end(`${request.headers.host} ${request.headers["x-forwarded-proto"]}`));
    const request = httpsRequest({ port: door.port, host: "127.0.0.1", servername: authority, ca, headers: { host: authority } });
    request.end();
    const [answer] = (await once(request, "response")) as [IncomingMessage];
    expect(await text(answer)).toBe(`${authority} https`);
  });

  test("WebSockets go through", async () => {
    const echo = new WebSocketServer({ noServer: true });
    const guest = await lab.serve(id, app, (_request, response) => void response.end());
    guest.on("upgrade", (request, socket, head) =>
      echo.handleUpgrade(request, socket, head, (connection) => connection.on("message", (data) => connection.send(data))),
    );
    const socket = new WebSocket(`wss://${authority}:${door.port}/`, {
      ca,
      lookup: (_name, _options, found) => found(null, [{ address: "127.0.0.1", family: 4 }] as never),
    });
    await once(socket, "open");
    socket.send("hello");
    expect(String((await once(socket, "message"))[0])).toBe("hello");

    // The sandbox ends: neither side may take that for the end of what the other said
    const closed = once(socket, "close");
    lab.proxy.drop(id);
    expect((await closed)[0]).toBe(1006);
  });

  test("a connection that is cut is reset below TLS, where an end would look like one in order", async () => {
    await lab.serveRaw(id, app, (guest) => {
      guest.once("data", () => guest.write("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: raw\r\n\r\nhalf of"));
    });
    const socket = socketTo(authority, "http/1.1");
    socket.write(`GET / HTTP/1.1\r\nhost: ${authority}\r\nconnection: Upgrade\r\nupgrade: raw\r\n\r\n`);
    let seen = "";
    socket.on("data", (chunk: Buffer) => (seen += chunk.toString()));
    await until("the guest to have begun", () => seen.endsWith("half of"));
    const broken = once(socket, "error");
    lab.proxy.drop(id);
    expect(await broken).toMatchObject([{ code: "ECONNRESET" }]);
  });
});

test("another certificate serves from the next connection on", async () => {
  const other = await EdgeCertificate.open({ dir, publicUrl: "https://roost.test" }, silentLogger);
  door.useCertificate(other.pem);
  const socket = connectTls({
    port: door.port,
    host: "127.0.0.1",
    servername: "roost.test",
    ca: await readFile(localAuthorityPath(dir), "utf8"),
  });
  await once(socket, "secureConnect");
  socket.destroy();
});

test("curl takes it for what it is, by HTTP/2", async () => {
  await lab.serve(id, app, (_request, response) => void response.end("seen by curl"));
  const url = `https://${authority}:${door.port}/`;
  const output = await run([
    "curl",
    "--silent",
    "--show-error",
    "--http2",
    "--max-time",
    "20",
    "--cacert",
    localAuthorityPath(dir),
    "--resolve",
    `${authority}:${door.port}:127.0.0.1`,
    "--write-out",
    " %{http_version}",
    url,
  ]);
  expect(output).toBe("seen by curl 2");
});
