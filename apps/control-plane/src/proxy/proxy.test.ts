import { request as httpRequest, type IncomingMessage } from "node:http";

import { guestAgentPort } from "@roost/contract";
import { describe, expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import { ProxyLab } from "../testing/proxy-lab.ts";

let lab: ProxyLab;
eachProxyLab((fresh) => {
  lab = fresh;
  lab.sandbox(id);
});

/** A guest's server that tells what it got. */
const echo = async (port = app) =>
  lab.serve(id, port, (request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.on("end", () => {
      const { method, url, headers, rawHeaders, trailers } = request;
      response.end(JSON.stringify({ method, url, headers, rawHeaders, trailers, body: Buffer.concat(chunks).toString() }));
    });
  });
interface Echoed {
  readonly method: string;
  readonly url: string;
  readonly headers: Record<string, string>;
  readonly rawHeaders: string[];
  readonly body: string;
}
const echoed = async (request: Parameters<ProxyLab["fetch"]>[0]) => (await lab.fetch({ id, port: app, ...request })).json() as Echoed;

describe("requests", () => {
  test("a browser that asks whether a page may say whose its request is, is told yes, and the request gets there", async () => {
    const asked = "authorization,e2b-sandbox-id,e2b-sandbox-port,x-own";
    const origin = "https://elsewhere.example";
    const preflight = { origin, "access-control-request-method": "PUT", "access-control-request-headers": asked };
    const answer = await lab.fetch({ method: "OPTIONS", path: "/x", headers: preflight });
    expect(answer).toMatchObject({
      status: 204,
      headers: { "access-control-allow-origin": "*", "access-control-allow-headers": asked, vary: "Access-Control-Request-Headers" },
    });
    expect(answer.headers["access-control-allow-methods"]).toContain("PUT");
    await echo();
    expect(await echoed({ method: "PUT", path: "/x", headers: { origin } })).toMatchObject({ method: "PUT", url: "/x" });
    expect(lab.results).toEqual(["2xx", "2xx"]);
  });

  test("and so is one whose page sends a traffic token to a port that is not public", async () => {
    lab.sandbox(id, { network: { is_public: false }, traffic_token: "traffic" });
    await lab.serve(id, app, (_request, response) => response.setHeader("access-control-allow-origin", "*").end("private"));
    const to = { host: `${app}-${id}.example.org`, origin: "https://elsewhere.example" };
    const asked = { "access-control-request-method": "GET", "access-control-request-headers": "e2b-traffic-access-token" };
    expect((await lab.fetch({ method: "OPTIONS", headers: { ...to, ...asked } })).status).toBe(204);
    expect((await lab.fetch({ headers: { ...to, "e2b-traffic-access-token": "traffic" } })).body).toBe("private");
    expect((await lab.fetch({ headers: to })).status).toBe(403);
  });

  test("any other preflight is the guest's to answer", async () => {
    await lab.serve(id, app, (_request, response) => response.writeHead(405).end());
    const asked = { "access-control-request-method": "PUT", "access-control-request-headers": "x-own" };
    expect((await lab.fetch({ method: "OPTIONS", headers: { host: `${app}-${id}.example.org`, ...asked } })).status).toBe(405);
  });

  test("what is for no sandbox is the control plane's", async () => {
    expect(await lab.fetch({ path: "/v1/sandboxes", headers: { "x-api-key": "e2b_00" } })).toMatchObject({ status: 200, body: "control" });
    expect((await lab.fetch({ method: "POST", body: "x", headers: { expect: "100-continue" } })).body).toBe("control");
  });

  test.each(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"])("%s by headers and by host name", async (method) => {
    await lab.serve(id, app, (request, response) => response.writeHead(207, { "x-method": request.method }).end("body"));
    const expected = { status: 207, headers: { "x-method": method }, body: method === "HEAD" ? "" : "body" };
    expect(await lab.fetch({ id, port: app, method })).toMatchObject(expected);
    expect(await lab.fetch({ method, headers: { host: `${app}-${id}.example.org` } })).toMatchObject(expected);
  });

  test("path, query, headers and body arrive as they were sent", async () => {
    await echo();
    const path = "/a%2Fb/../c?x=1&y=%00&x=2#";
    const got = await echoed({
      method: "POST",
      path,
      body: Buffer.from("hello"),
      headers: { "x-own": "ü", authorization: "Bearer app", cookie: "a=b" },
    });
    expect(got).toMatchObject({ method: "POST", url: path, body: "hello" });
    expect(got.headers).toMatchObject({ authorization: "Bearer app", cookie: "a=b", "content-length": "5" });
    expect(Buffer.from(got.headers["x-own"] ?? "", "latin1").toString()).toBe("ü"); // the lab reads UTF-8 as Latin-1
  });

  test("X-Forwarded-* say where a request came from; Host stays", async () => {
    await echo();
    const host = `${app}-${id}.example.org:8443`;
    expect((await echoed({ headers: { host } })).headers).toMatchObject({
      host,
      "x-forwarded-host": host,
      "x-forwarded-proto": "http",
      "x-forwarded-for": "127.0.0.1",
    });
    const forged = { "x-forwarded-for": "203.0.113.7", "x-forwarded-proto": "https", "x-forwarded-host": "forged.example" };
    expect((await echoed({ headers: { host, ...forged } })).headers).toMatchObject({
      "x-forwarded-host": host,
      "x-forwarded-proto": "https",
      "x-forwarded-for": "203.0.113.7, 127.0.0.1",
    });
  });

  test("the host that a policy masks", async () => {
    lab.sandbox(id, { network: { is_public: true, mask_request_host: "localhost:${PORT}" } });
    await echo();
    expect((await echoed({ headers: { host: "outer.example" } })).headers).toMatchObject({
      host: `localhost:${app}`,
      "x-forwarded-host": "outer.example",
    });
  });

  test("hop-by-hop headers, routing headers and the traffic token stay here", async () => {
    await echo();
    const { headers } = await echoed({
      headers: {
        connection: "keep-alive, x-named",
        "x-named": "1",
        "keep-alive": "timeout=5",
        "proxy-authorization": "secret",
        te: "trailers, deflate",
        "e2b-traffic-access-token": "secret",
        "x-access-token": "secret",
      },
    });
    for (const name of [
      "x-named",
      "keep-alive",
      "proxy-authorization",
      "e2b-traffic-access-token",
      "x-access-token",
      "e2b-sandbox-id",
      "e2b-sandbox-port",
    ]) {
      expect(headers, name).not.toHaveProperty(name);
    }
    expect(headers["te"]).toBe("trailers");
  });

  test("an answer's status, headers and repeated headers come back; hop-by-hop ones do not", async () => {
    await lab.serve(id, app, (_request, response) => {
      response.writeHead(418, [
        ["Set-Cookie", "a=1"],
        ["Set-Cookie", "b=2"],
        ["X-Own", "yes"],
        ["Keep-Alive", "timeout=1"],
        ["Proxy-Connection", "x"],
        ["Content-Length", "3"],
      ] as never);
      response.end("tea");
    });
    const answer = await lab.fetch({ id, port: app });
    expect(answer).toMatchObject({
      status: 418,
      body: "tea",
      headers: { "set-cookie": ["a=1", "b=2"], "x-own": "yes", "content-length": "3" },
    });
    expect(answer.headers).not.toHaveProperty("proxy-connection");
    expect(answer.headers["keep-alive"]).not.toBe("timeout=1");
  });

  test("with the platform's origin cannot speak for it, nor be taken from a cache for another sandbox's; with one of its own it is as sent", async () => {
    const sent = {
      vary: "Accept",
      "cache-control": "public, max-age=60",
      "clear-site-data": '"*"',
      "alt-svc": 'h2=":1"',
      "set-cookie": ["a=1"],
    };
    await lab.serve(id, app, (_request, response) => response.writeHead(200, sent).end());
    const { headers } = await lab.fetch({ id, port: app });
    expect(headers).toMatchObject({
      vary: "Accept, E2b-Sandbox-Id, E2b-Sandbox-Port",
      "cache-control": "public, max-age=60",
      "set-cookie": ["a=1"],
    });
    expect(headers).not.toHaveProperty("clear-site-data");
    expect(headers).not.toHaveProperty("alt-svc");
    expect(await lab.fetch({ headers: { host: `${app}-${id}.example.org` } })).toMatchObject({ headers: sent });
  });

  test("a range, a 304 and a 204 keep their form", async () => {
    await lab.serve(id, app, (request, response) => {
      if (request.headers.range === "bytes=1-2") response.writeHead(206, { "content-range": "bytes 1-2/5", "content-length": 2 }).end("bc");
      else if (request.url === "/304") response.writeHead(304, { etag: '"x"', "content-length": 10 }).end();
      else response.writeHead(204).end();
    });
    expect(await lab.fetch({ id, port: app, headers: { range: "bytes=1-2" } })).toMatchObject({
      status: 206,
      body: "bc",
      headers: { "content-range": "bytes 1-2/5" },
    });
    expect(await lab.fetch({ id, port: app, path: "/304" })).toMatchObject({ status: 304, body: "", headers: { etag: '"x"' } });
    expect(await lab.fetch({ id, port: app, path: "/204" })).toMatchObject({ status: 204, body: "" });
  });

  test("chunked bodies and trailers pass in both directions", async () => {
    await lab.serve(id, app, (request, response) => {
      response.writeHead(200, { trailer: "x-sum" });
      request.on("data", (chunk: Buffer) => response.write(chunk));
      request.on("end", () => {
        response.addTrailers({ "x-sum": request.trailers["x-in"] ?? "none" });
        response.end();
      });
    });
    const connection = await lab.connect();
    connection.write(
      `POST / HTTP/1.1\r\nHost: ${app}-${id}.x\r\nTransfer-Encoding: chunked\r\nTrailer: X-In, X-Access-Token\r\nConnection: close\r\n\r\n` +
        "3\r\nabc\r\n2\r\nde\r\n0\r\nX-In: 42\r\nX-Access-Token: y\r\n\r\n",
    );
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
    expect(connection.received).toMatch(/\r\nabc\r\n[^]*de\r\n0\r\nx-sum: 42\r\n\r\n$/);
  });

  test("a GET without a body is sent without one, a POST without one says so, a GET with one is framed", async () => {
    await echo();
    const get = await echoed({});
    expect(get.headers).not.toHaveProperty("transfer-encoding");
    expect(get.headers).not.toHaveProperty("content-length");
    const connection = await lab.connect();
    connection.write(`POST / HTTP/1.1\r\nHost: ${app}-${id}.x\r\nConnection: close\r\n\r\n`);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toContain('"content-length":"0"');
    const hidden = "GET /hidden HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n";
    expect(await echoed({ body: hidden, headers: { "transfer-encoding": "chunked" } })).toMatchObject({ url: "/", body: hidden });
  });

  test("interim answers pass, less what is in them beside links; none to a client of HTTP/1.0", async () => {
    await lab.serve(id, app, (_request, response) => {
      response.writeProcessing();
      response.writeEarlyHints({ link: "</a.css>; rel=preload", "x-internal": "1" }, () => response.end("page"));
    });
    const ask = async (version: string) => {
      const connection = await lab.connect();
      connection.write(`GET / HTTP/${version}\r\nHost: ${app}-${id}.x\r\nConnection: close\r\n\r\n`);
      await until("the end", () => connection.end !== undefined);
      return connection.received;
    };
    expect(await ask("1.1")).toMatch(
      /^HTTP\/1\.1 102 Processing\r\n\r\nHTTP\/1\.1 103 Early Hints\r\nLink: <\/a\.css>; rel=preload\r\n\r\nHTTP\/1\.1 200 OK\r\n/i,
    );
    expect(await ask("1.0")).toMatch(/^HTTP\/1\.1 200 OK\r\n/);
  });

  test("100 Continue comes from the guest, before the body is sent", async () => {
    const guest = await echo();
    const order: string[] = [];
    guest.on("checkContinue", (request, response) => {
      order.push("asked");
      response.writeContinue();
      guest.emit("request", request, response);
    });
    const request = httpRequest(lab.options({ id, port: app, method: "POST", headers: { expect: "100-continue", "content-length": "4" } }));
    const answered = new Promise<IncomingMessage>((resolve) => {
      request.once("response", resolve);
    });
    request.flushHeaders();
    await new Promise((resolve) => request.once("continue", resolve));
    order.push("continued");
    request.end("body");
    expect((await answered).statusCode).toBe(200);
    expect(order).toEqual(["asked", "continued"]);
  });

  test("a guest that refuses instead of continuing is heard, and needs no body", async () => {
    const guest = await echo();
    guest.on("checkContinue", (_request, response) => void response.writeHead(413).end());
    const connection = await lab.connect();
    connection.write(`POST / HTTP/1.1\r\nHost: ${app}-${id}.x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n`);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/^HTTP\/1\.1 413 /);
  });

  test("a guest that knows nothing of 100 Continue gets the body all the same", async () => {
    await lab.serveRaw(id, app, (socket) => {
      let got = "";
      socket.on("data", (data) => {
        got += data.toString();
        if (got.endsWith("body")) socket.end("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      });
    });
    const request = httpRequest(lab.options({ id, port: app, method: "POST", headers: { expect: "100-continue", "content-length": "4" } }));
    request.once("continue", () => request.end("body"));
    request.flushHeaders();
    const answer = await new Promise<IncomingMessage>((resolve) => {
      request.once("response", resolve);
    });
    expect(answer.statusCode).toBe(200);
  });

  test("an HTTP/1.0 client without Host gets an answer it understands", async () => {
    await lab.serve(id, app, (request, response) => {
      response.write(request.headers.host);
      response.end(" and more");
    });
    const connection = await lab.connect();
    connection.write(`GET / HTTP/1.0\r\nE2b-Sandbox-Id: ${id}\r\nE2b-Sandbox-Port: ${app}\r\n\r\n`);
    await until("the end", () => connection.end !== undefined);
    expect(connection.received).toMatch(/\r\n\r\n169\.254\.0\.21 and more$/);
    expect(connection.received).not.toMatch(/transfer-encoding/i);
  });

  test("pipelined requests are each for whom they say, in order", async () => {
    await lab.serve(id, app, (request, response) => response.end(`guest${request.url ?? ""}`));
    const connection = await lab.connect();
    const head = (path: string, host: string) => `GET ${path} HTTP/1.1\r\nHost: ${host}\r\n\r\n`;
    connection.write(head("/1", `${app}-${id}.x`) + head("/2", "127.0.0.1") + head("/3", `${app}-${id}.x`) + head("/4", "127.0.0.1"));
    await until("four answers", () => connection.received.split("HTTP/1.1 200").length === 5);
    expect(connection.received.replaceAll(/HTTP[^]*?\r\n\r\n(?:[0-9a-f]+\r\n)?/g, "|").replaceAll("\r\n0\r\n\r\n", "")).toBe(
      "|guest/1|control|guest/3|control",
    );
    connection.socket.destroy();
  });
});

describe("connections to the guest", () => {
  test("are used again, also by other clients, and not for another port", async () => {
    await echo(guestAgentPort);
    await echo();
    for (let round = 0; round < 3; round += 1) await lab.fetch({ id, path: "/health" });
    expect(lab.dials).toBe(1);
    await lab.fetch({ id, port: app });
    expect(lab.dials).toBe(2);
  });

  test("to the guest agent are used again for posts as well; to other servers only for what may be repeated", async () => {
    await echo(guestAgentPort);
    for (let round = 0; round < 3; round += 1) await lab.fetch({ id, method: "POST", path: "/process.Process/List", body: "{}" });
    expect(lab.dials).toBe(1);
    await echo();
    for (let round = 0; round < 3; round += 1) await lab.fetch({ id, port: app, method: "POST", body: "{}" });
    expect(lab.dials).toBe(4);
  });

  test("a request on a connection that the guest has just closed is sent again on a new one", async () => {
    let count = 0;
    await lab.serveRaw(id, app, (socket) => {
      count += 1;
      const isFirst = count === 1;
      let requests = 0;
      socket.on("data", () => {
        requests += 1;
        // The first connection answers once, and breaks when it is used again: what a server does that is just closing it.
        if (isFirst && requests > 1) socket.resetAndDestroy();
        else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      });
    });
    expect((await lab.fetch({ id, port: app })).status).toBe(200);
    expect(await lab.fetch({ id, port: app })).toMatchObject({ status: 200, body: "ok" });
    expect(count).toBe(2);
  });

  test("a guest agent that was restarted is reached at once", async () => {
    const first = await echo(guestAgentPort);
    await lab.fetch({ id, path: "/health" });
    first.closeAllConnections();
    await until("the end of its connections", () => lab.tunnels.size === 0);
    await echo(guestAgentPort);
    expect((await lab.fetch({ id, method: "POST", path: "/process.Process/List", body: "{}" })).status).toBe(200);
  });

  test("a port that opens a moment later is dialled again", async () => {
    lab.onDial = () => {
      lab.onDial = () => undefined;
      void echo();
    };
    expect((await lab.fetch({ id, port: app, method: "POST", body: "kept" })).body).toContain('"body":"kept"');
    expect(lab.dials).toBe(2);
  });

  test("a port that stays closed is dialled five times", async () => {
    expect((await lab.fetch({ id, port: app })).json()).toEqual({
      sandboxId: id,
      message: "The sandbox is running but port is not open",
      port: app,
      code: 502,
    });
    expect(lab.dials).toBe(5);
  });

  test("a record is not read for each request", async () => {
    await echo();
    for (let round = 0; round < 5; round += 1) await lab.fetch({ id, port: app });
    expect(lab.finds).toBeLessThan(5);
  });
});

describe("a client that goes away", () => {
  test("ends the request in the guest at once", async () => {
    let isClosed = false;
    await lab.serve(id, app, (request, response) => {
      response.write("begun");
      request.on("close", () => (isClosed = true));
    });
    const request = httpRequest(lab.options({ id, port: app }), (response) => response.once("data", () => request.destroy()));
    request.on("error", () => undefined);
    request.end();
    await until("the end in the guest", () => isClosed);
    await until("the end of the tunnel", () => lab.tunnels.size === 0);
    expect(lab.results).toEqual(["cut"]);
  });

  test("in an upload is seen by the guest as an upload that broke off", async () => {
    let error: Error | undefined;
    await lab.serve(id, app, (request) => {
      request.on("error", (broken) => (error = broken));
      request.resume();
    });
    const request = httpRequest(lab.options({ id, port: app, method: "POST", headers: { "content-length": "1000000" } }));
    request.on("error", () => undefined);
    request.write("x".repeat(1000), () => setTimeout(() => request.destroy(), 50));
    await until("the broken upload", () => error !== undefined);
  });
});

test("a guest that answers nothing is given up", async () => {
  await using impatient = await ProxyLab.start({ idleTimeoutMs: 200 });
  impatient.sandbox(id);
  await impatient.serve(id, app, () => undefined);
  const answer = await impatient.fetch({ id, port: app });
  expect(answer.status).toBe(504);
  expect(answer.json()).toEqual({ sandboxId: id, message: "The sandbox did not answer in time", port: app, code: 504 });
  await until("the end of the tunnel", () => impatient.tunnels.size === 0);
});

test("a shutdown refuses what is new, lets short requests end, and cuts streams", { timeout: 60_000 }, async () => {
  let finish = () => {};
  await lab.serve(id, app, (request, response) => {
    response.write("begun");
    if (request.url === "/short") finish = () => response.end("done");
  });
  const short = lab.fetch({ id, port: app, path: "/short" });
  const endless = lab.fetch({ id, port: app, path: "/endless" });
  endless.catch(() => undefined);
  await until("both", () => lab.tunnels.size === 2);
  const drained = lab.proxy.drain();
  const refused = await lab.fetch({ id, port: app });
  expect(refused).toMatchObject({ status: 503, headers: { "retry-after": "5" } });
  expect(refused.json()).toEqual({ sandboxId: id, message: "the platform is shutting down", code: 503 });
  finish();
  expect((await short).body).toBe("begundone");
  await drained;
  await expect(endless).rejects.toThrow("aborted");
});
