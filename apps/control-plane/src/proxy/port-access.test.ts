import { connect } from "node:net";

import { guestAgentPort, portGrantParameter, trafficTokenHeader } from "@roost/contract";
import { must } from "@roost/kit";
import { describe, expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import type { ProxyLab } from "../testing/proxy-lab.ts";

let lab: ProxyLab;
let seen: { url: string | undefined; headers: Record<string, unknown> }[];
const other = "i0000000000000000000b";
const host = `${app}-${id}.example.org`;
const page = { "user-agent": "Mozilla/5.0", accept: "text/html,*/*" };

eachProxyLab(async (fresh) => {
  lab = fresh;
  seen = [];
  lab.sandbox(id, { network: {}, traffic_token: "right" });
  await lab.serve(id, app, (request, response) => {
    seen.push({ url: request.url, headers: request.headers });
    if (request.url === "/events") return void response.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
    if (request.url === "/long") return void response.writeHead(200).write("begun");
    response.end("app");
  });
});

const grantOf = (more: { sandboxId?: string; port?: number; keyNumber?: number; lifeMs?: number } = {}) => {
  const { lifeMs = 60_000, ...granted } = more;
  return lab.portKeys.sign({ sandboxId: id, port: app, keyNumber: 1, ...granted }, new Date(Date.now() + lifeMs));
};
const signed = (path: string, grant = grantOf()) => `${path}${path.includes("?") ? "&" : "?"}${portGrantParameter}=${grant}`;
const ask = async (path: string, headers: Record<string, string> = {}, method = "GET") =>
  lab.fetch({ method, path, headers: { host, ...headers } });

describe("a port", () => {
  test("is private unless something else is said, of it or of the sandbox's others", async () => {
    expect((await ask("/")).status).toBe(403);
    lab.sandbox(id, { port_access: { [app]: "public" } });
    expect((await ask("/")).body).toBe("app");
    lab.sandbox(id, { port_access: { "*": "public" } });
    expect((await ask("/")).body).toBe("app");
    lab.sandbox(id, { network: { is_public: true }, port_access: { [app]: "private" } });
    expect((await ask("/")).status).toBe(403);
    lab.sandbox(id, { network: { is_public: true }, port_access: { "*": "private" } });
    expect((await ask("/")).status).toBe(403);
    lab.sandbox(id, { port_access: { "*": "private", 3001: "public" } });
    expect((await ask("/")).status).toBe(403);
  });

  test.each([trafficTokenHeader, "e2b-traffic-access-token"])(
    "is opened by the token in %s, which the guest does not see",
    async (name) => {
      expect((await ask("/", { [name]: "right" })).body).toBe("app");
      expect((await ask("/", { [name]: "wrong" })).status).toBe(403);
      expect((await ask("/", { [name]: "" })).status).toBe(403);
      expect(seen).toHaveLength(1);
      expect(Object.keys(seen[0]?.headers ?? {})).not.toContain(name);
    },
  );
});

describe("a signed URL", () => {
  test("in a browser becomes a cookie of that host name, and an address without it", async () => {
    const first = await ask(signed("/a/b?x=1"), page);
    expect(first).toMatchObject({
      status: 302,
      headers: { location: "/a/b?x=1", "cache-control": "no-store", "referrer-policy": "no-referrer" },
      body: "",
    });
    expect(seen).toEqual([]);
    const [cookie = ""] = first.headers["set-cookie"] ?? [];
    expect(cookie).toMatch(/^roost_port=[^;]+; Max-Age=(?:59|60); Path=\/; HttpOnly; SameSite=Lax$/);
    const [pair = ""] = cookie.split(";");
    expect((await ask("/a/b?x=1", { ...page, cookie: `own=1; ${pair}; more=2` })).body).toBe("app");
    expect((await ask("/script.js", { cookie: pair, "sec-fetch-site": "same-origin" }, "POST")).body).toBe("app");
    expect(seen).toMatchObject([{ url: "/a/b?x=1", headers: { cookie: "own=1; more=2" } }, { url: "/script.js" }]);
    expect(seen[1]?.headers).not.toHaveProperty("cookie");
  });

  test("over TLS makes a cookie that no neighbour and no plain connection can set", async () => {
    const answer = await ask(signed("/"), { ...page, "x-forwarded-proto": "https" });
    expect(answer.headers["set-cookie"]?.[0]).toMatch(/^__Host-roost_port=[^;]+; Max-Age=\d+; Path=\/; HttpOnly; Secure; SameSite=Lax$/);
    const pair = `roost_port=${grantOf()}`;
    expect((await ask("/", { cookie: pair, "x-forwarded-proto": "https" })).status).toBe(403);
    expect((await ask("/", { cookie: `__Host-${pair}`, "x-forwarded-proto": "https" })).body).toBe("app");
    expect(seen[0]?.headers).not.toHaveProperty("cookie");
  });

  test("serves programs, hooks and sockets at once; nothing of it reaches the guest", async () => {
    const referer = `http://${host}${signed("/from?a=1")}`;
    expect((await ask(signed("/hook?y=2"), { referer }, "POST")).body).toBe("app");
    expect((await ask(`/?${portGrantParameter}=${grantOf()}&z=3`, { referer: `http://${host}${signed("/")}` })).body).toBe("app");
    expect((await ask(signed("/image.png"), { ...page, "sec-fetch-mode": "no-cors" })).body).toBe("app");
    expect(seen).toMatchObject([
      { url: "/hook?y=2", headers: { referer: `http://${host}/from?a=1` } },
      { url: "/?z=3", headers: { referer: `http://${host}/` } },
      { url: "/image.png" },
    ]);
    expect(JSON.stringify(seen)).not.toMatch(/roost_access|v1\./);
  });

  test("does not lead to another host, whatever its path", async () => {
    for (const path of ["//elsewhere.example/", "/\\elsewhere.example/"]) {
      const { location = "" } = (await ask(signed(path), page)).headers;
      expect(new URL(location, `http://${host}/`).host, path).toBe(host);
    }
  });

  test.each([
    ["of another port", () => grantOf({ port: app + 1 }), "not signed for this port"],
    ["of another sandbox, such as its parent", () => grantOf({ sandboxId: other }), "not signed for this port"],
    ["from before the token was changed", () => grantOf({ keyNumber: 0 }), "not signed for this port"],
    ["that has expired", () => grantOf({ lifeMs: -1_000 }), "has expired"],
    ["that is none", () => "no-grant-at-all", "not signed for this port"],
  ])("%s opens nothing, by URL and by cookie, for browsers and programs", async (_what, make, why) => {
    const answer = await ask(signed("/", make()));
    expect(answer.status).toBe(403);
    expect(answer.json()).toMatchObject({ sandboxId: id, code: 403, message: expect.stringContaining(why) as string });
    const inBrowser = await ask(signed("/", make()), page);
    expect(inBrowser).toMatchObject({ status: 403, headers: { "content-type": "text/html; charset=utf-8" } });
    expect(inBrowser.headers).not.toHaveProperty("set-cookie");
    expect(inBrowser.body).not.toContain(make());
    expect((await ask("/", { cookie: `roost_port=${make()}` })).status).toBe(403);
    expect(seen).toEqual([]);
  });

  test("counts for its host name alone: not where headers say the port, and never for the guest agent's", async () => {
    const cookie = `roost_port=${grantOf()}`;
    expect((await lab.fetch({ id, port: app, path: signed("/"), headers: { cookie } })).status).toBe(403);
    const forAgent = grantOf({ port: guestAgentPort });
    const agentHost = `${guestAgentPort}-${id}.example.org`;
    for (const path of ["/init", "/logs"]) {
      const answer = await lab.fetch({ path: signed(path, forAgent), headers: { host: agentHost, cookie: `roost_port=${forAgent}` } });
      expect(answer.status, path).toBe(404);
    }
    const tokens: unknown[] = [];
    await lab.serve(id, guestAgentPort, (request, response) => {
      tokens.push(request.headers["x-access-token"]);
      response.end("agent");
    });
    await lab.fetch({ path: signed("/files?path=/x", forAgent), headers: { host: agentHost } });
    expect(tokens).toEqual([undefined]);
  });

  test("a cookie does not count for what another sandbox's page sends, and does for another port of the same", async () => {
    const cookie = `roost_port=${grantOf()}`;
    const from = (name: string) => ({ cookie, origin: `http://${name}` });
    expect((await ask("/", { ...from(`${app}-${other}.example.org`), "sec-fetch-site": "same-site" }, "POST")).status).toBe(403);
    expect((await ask("/", from(`${app}-${other}.example.org`), "POST")).status).toBe(403);
    expect((await ask("/", from("null"), "POST")).status).toBe(403);
    expect((await ask("/", from(`${app}-${id}.elsewhere.example`), "POST")).status).toBe(403);
    expect((await ask("/", { cookie, "sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors" })).status).toBe(403);
    expect((await ask("/", { cookie, "sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate" })).body).toBe("app"); // a link
    expect((await ask("/", { ...from(`8000-${id}.example.org`), "sec-fetch-site": "same-site" }, "POST")).body).toBe("app");
    expect((await ask("/", { ...from("null"), "sec-fetch-site": "same-origin" }, "POST")).body).toBe("app");
    const upgrade = { ...from(`${app}-${other}.example.org`), connection: "Upgrade", upgrade: "websocket" };
    expect((await ask("/", upgrade)).status).toBe(403);
  });

  test("a cookie of the same name that a neighbour set does not shut out the good one", async () => {
    const tossed = Array.from({ length: 3 }, () => `roost_port=${grantOf({ sandboxId: other })}`);
    expect((await ask("/", { cookie: [...tossed, `roost_port=${grantOf()}`].join("; ") })).body).toBe("app");
  });

  test("of a port that anybody may reach leads on, and leaves a cookie that is no better than any", async () => {
    lab.sandbox(id, { port_access: { "*": "public" } });
    expect(await ask(signed("/x", "not-a-grant"), page)).toMatchObject({ status: 302, headers: { location: "/x" } });
    expect((await ask(signed("/x", "not-a-grant"), page)).headers).not.toHaveProperty("set-cookie");
    expect((await ask("/x", page)).body).toBe("app");
  });
});

describe("what is under way is cut when it would not be let in any more", () => {
  const stream = async (path: string, headers: string): Promise<{ text: () => string; isOver: () => boolean }> => {
    const socket = connect({ host: "127.0.0.1", port: lab.port });
    let text = "";
    let isOver = false;
    socket.on("data", (chunk: Buffer) => (text += chunk.toString("latin1")));
    socket.on("close", () => (isOver = true)).on("error", () => undefined);
    socket.write(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\n${headers}\r\n`);
    await until("the stream's beginning", () => /data: 1|begun/.test(text));
    return { text: () => text, isOver: () => isOver };
  };
  const token = `${trafficTokenHeader}: right\r\n`;

  test("the token was changed", async () => {
    const one = await stream("/long", token);
    lab.sandbox(id, { traffic_token: "another" });
    await until("the end of the stream", one.isOver);
  });

  test("signed URLs were revoked; what the token opened goes on", async () => {
    const byToken = await stream("/long", token);
    const byUrl = await stream(signed("/events"), "");
    lab.sandbox(id, { port_key_number: 2 });
    await until("the end of the stream", byUrl.isOver);
    expect(byToken.isOver()).toBe(false);
  });

  test("the port was made private, and nobody told this control plane", async () => {
    lab.sandbox(id, { port_access: { "*": "public" } });
    const one = await stream("/long", "");
    lab.rows.set(id, { ...must(lab.rows.get(id), "the record"), port_access: {} });
    const ended = new AbortController();
    const running = lab.proxy.run(ended.signal);
    await until("the end of the stream", one.isOver);
    ended.abort();
    await running;
  });

  test("the signed URL has expired", async () => {
    const one = await stream(signed("/events", grantOf({ lifeMs: 2_000 })), "");
    const ended = new AbortController();
    const running = lab.proxy.run(ended.signal);
    await until("the end of the stream", one.isOver);
    ended.abort();
    await running;
  });
});
