import type { ServerResponse } from "node:http";
import { connect } from "node:net";

import { PlatformError } from "@roost/contract";
import { describe, expect, test } from "vitest";

import { app, eachProxyLab, id, until } from "../testing/each-proxy-lab.ts";
import type { ProxyLab } from "../testing/proxy-lab.ts";

let lab: ProxyLab;
let arrived: { method: string | undefined; url: string | undefined; response: ServerResponse }[];

eachProxyLab(async (fresh) => {
  lab = fresh;
  arrived = [];
  lab.sandbox(id, { auto_resume: true });
  await lab.serve(id, app, (request, response) => {
    arrived.push({ method: request.method, url: request.url, response });
    if (request.url === "/events") response.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
    if (request.url === "/quick") response.end("quick");
  });
});

const begin = (head: string) => {
  const socket = connect({ host: "127.0.0.1", port: lab.port });
  const state = { text: "", isOver: false };
  socket.on("data", (chunk: Buffer) => (state.text += chunk.toString("latin1")));
  socket.on("close", () => (state.isOver = true)).on("error", () => undefined);
  socket.write(`${head} HTTP/1.1\r\nhost: ${app}-${id}.example.org\r\n\r\n`);
  return state;
};

/** As a host does it: nothing new gets in from here on. */
const pausing = () => {
  lab.sandbox(id, { state: "pausing" });
  lab.proxy.pausing(id);
};
const resumed = () => lab.sandbox(id, { state: "running", time_started: new Date(2_000), time_paused: null });
const paused = () => lab.endVm(id, { state: "paused", time_paused: new Date() });

describe("before a pause", () => {
  test("unused connections are let go, so that its host does not wait for them", async () => {
    await lab.fetch({ id, port: app, path: "/quick" });
    expect(lab.tunnels.size).toBe(1);
    pausing();
    await until("no connection to be open", () => lab.tunnels.size === 0);
  });

  test("a request that is under way ends, and its connection is not kept", async () => {
    const answer = lab.fetch({ id, port: app, path: "/slow" });
    await until("the request", () => arrived.length === 1);
    pausing();
    arrived[0]?.response.end("slow");
    expect((await answer).body).toBe("slow");
    await until("no connection to be open", () => lab.tunnels.size === 0);
  });

  test("what has no end is cut at once", async () => {
    const events = begin("GET /events");
    await until("the first event", () => events.text.includes("data: 1"));
    pausing();
    await until("the end of the stream", () => events.isOver);
    expect(lab.tunnels.size).toBe(0);
  });

  test("and what turns out to have no end while it waits", async () => {
    const late = begin("GET /late");
    await until("the request", () => arrived.length === 1);
    pausing();
    arrived[0]?.response.writeHead(200, { "content-type": "text/event-stream" }).write("data: 1\n\n");
    await until("the end of the stream", () => late.isOver);
  });

  test("should it not be paused after all, everything is as before", async () => {
    pausing();
    lab.sandbox(id, { state: "running" });
    const events = begin("GET /events");
    await until("the first event", () => events.text.includes("data: 1"));
    expect((await lab.fetch({ id, port: app, path: "/quick" })).body).toBe("quick");
    expect(events.isOver).toBe(false);
  });
});

describe("a request whose app did not answer before the pause", () => {
  test("is sent again once the sandbox runs again, if it may be repeated", async () => {
    lab.wake = async () => resumed();
    const answer = lab.fetch({ id, port: app, path: "/slow" });
    await until("the request", () => arrived.length === 1);
    paused();
    await until("the request to arrive again", () => arrived.length === 2);
    arrived[1]?.response.end("after the pause");
    expect(await answer).toMatchObject({ status: 200, body: "after the pause" });
    expect(lab.wakes).toBe(1);
  });

  test.each(["POST", "DELETE"])("is never sent twice if it may do something twice: a %s without a body", async (method) => {
    lab.wake = async () => resumed();
    const answer = lab.fetch({ id, port: app, method, path: "/slow", headers: { "content-length": "0" } });
    await until("the request", () => arrived.length === 1);
    // As a host of this very process cuts them: with its reason
    for (const tunnel of lab.tunnels) tunnel.destroy(new PlatformError("sandbox_wrong_state", "the sandbox was paused"));
    expect(await answer).toMatchObject({ status: 502 });
    expect(arrived).toHaveLength(1);
  });

  test("is not, if it may do something twice, or the sandbox is not resumed by requests", async () => {
    const post = lab.fetch({ id, port: app, method: "POST", path: "/slow" });
    await until("the request", () => arrived.length === 1);
    paused();
    expect((await post).status).toBe(502);
    lab.sandbox(id, { state: "running", time_started: new Date(2_000), time_paused: null, auto_resume: false });
    const get = lab.fetch({ id, port: app, path: "/slow" });
    await until("the second request", () => arrived.length === 2);
    paused();
    expect((await get).status).toBe(502);
    expect(arrived).toHaveLength(2);
    expect(lab.wakes).toBe(0);
  });
});

describe("a sandbox that was moved", () => {
  test("is found on its new host, though this control plane was not told", async () => {
    await lab.fetch({ id, port: app, path: "/quick" });
    for (const tunnel of lab.tunnels) tunnel.destroy();
    const asked: string[] = [];
    lab.onDial = (hostId) => {
      asked.push(hostId);
      if (hostId === "host") {
        const row = lab.rows.get(id);
        if (row !== undefined) lab.rows.set(id, { ...row, host_id: "other-host", time_started: new Date(3_000) });
        throw lab.unknownThere(id);
      }
    };
    expect(await lab.fetch({ id, port: app, path: "/quick" })).toMatchObject({ status: 200, body: "quick" });
    expect(asked).toEqual(["host", "other-host"]);
  });

  test("and one that is gone from its host, and on none, is 502", async () => {
    lab.onDial = () => {
      throw lab.unknownThere(id);
    };
    expect((await lab.fetch({ id, port: app, path: "/quick" })).status).toBe(502);
    expect(lab.dials).toBe(1);
  });
});
