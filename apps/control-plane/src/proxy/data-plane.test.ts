import { createServer, request as httpRequest, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";

import { guestAgentPort } from "@roost/contract";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

/** The data plane in a whole control plane, beside the API on the same port. */

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const routing = (id: string, port = guestAgentPort) => ({ "e2b-sandbox-id": id, "e2b-sandbox-port": String(port) });
const list = async (id: string) =>
  fetch(`${world.url}/process.Process/List`, {
    method: "POST",
    headers: { ...routing(id), "content-type": "application/json", "connect-protocol-version": "1" },
    body: "{}",
  });
const gone = (sandboxId: string) => ({ sandboxId, message: "The sandbox was not found", code: 502 });
const start = async (id: string): Promise<IncomingMessage> => {
  const url = new URL(world.url);
  const message = Buffer.from(JSON.stringify({ process: { cmd: "sleep", args: ["60"] } }));
  const envelope = Buffer.alloc(5 + message.length);
  envelope.writeUInt32BE(message.length, 1);
  message.copy(envelope, 5);
  return new Promise((resolve, reject) => {
    const request = httpRequest(
      {
        host: url.hostname,
        port: url.port,
        path: "/process.Process/Start",
        method: "POST",
        agent: false,
        headers: { ...routing(id), "content-type": "application/connect+json" },
      },
      resolve,
    );
    request.on("error", reject);
    request.end(envelope);
  });
};
const endOf = async (stream: IncomingMessage) =>
  new Promise<string>((resolve) => {
    stream.on("error", () => resolve("cut"));
    stream.on("end", () => resolve("end"));
    stream.resume();
  });

test("requests that name a sandbox are its guest's, all others the API's", async () => {
  const { id } = await world.createSandbox();
  expect(await (await list(id)).json()).toEqual({});
  expect((await world.request("GET", `/v1/sandboxes/${id}`)).status).toBe(200);
  expect((await world.request("GET", "/v1/sandboxes", undefined, routing(id))).status).toBe(404); // no such endpoint of the guest agent
  expect((await world.exec(id, { cmd: "echo", args: ["hi"] })).body.stdout).toBe("hi\n");
});

test("a sandbox that was deleted is 502 at once, and its streams are cut", async () => {
  const { id } = await world.createSandbox();
  expect((await list(id)).status).toBe(200);
  const ended = endOf(await start(id));
  expect((await world.request("DELETE", `/v1/sandboxes/${id}`)).status).toBe(204);
  const answer = await list(id);
  expect(answer.status).toBe(502);
  expect(await answer.json()).toEqual(gone(id));
  expect(await ended).toBe("cut");
});

test("a paused sandbox is 502, unless requests may resume it: then it runs", async () => {
  const { id } = await world.createSandbox();
  const ended = endOf(await start(id));
  expect((await world.request("POST", `/v1/sandboxes/${id}/pause`)).status).toBe(200);
  expect(await ended).toBe("cut");
  expect(await (await list(id)).json()).toEqual(gone(id));
  expect((await world.request("POST", `/v1/sandboxes/${id}/resume`)).status).toBe(200);
  expect((await list(id)).status).toBe(200);

  const { id: waking } = await world.createSandbox({ auto_resume: true });
  expect((await world.request("POST", `/v1/sandboxes/${waking}/pause`)).status).toBe(200);
  const answers = await Promise.all(Array.from({ length: 20 }, async () => list(waking)));
  expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200));
  expect(await (await world.request("GET", `/v1/sandboxes/${waking}`)).json()).toMatchObject({ state: "running" });
});

test("other ports of a sandbox of the native API are closed", async () => {
  const { id } = await world.createSandbox();
  const server = createServer((_request, response) => response.end("app"));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
  world.host.ports.set(3000, (server.address() as AddressInfo).port);
  try {
    expect((await fetch(world.url, { headers: routing(id, 3000) })).status).toBe(403);
    await world.database.db.updateTable("sandbox").set({ traffic_token: "right" }).where("id", "=", id).execute();
    await poll({ what: "the token", timeoutMs: 30_000 }, async () => {
      const answer = await fetch(world.url, { headers: { ...routing(id, 3000), "e2b-traffic-access-token": "right" } });
      return (await answer.text()) === "app" ? true : undefined;
    });
  } finally {
    server.closeAllConnections();
    server.close();
  }
});

test("a URL that nobody signed is refused, with the words that SDKs compare", async () => {
  const answer = await fetch(`${world.url}/files?path=/etc/passwd&signature=v1_${"a".repeat(43)}`);
  expect(answer.status).toBe(401);
  expect(await answer.json()).toEqual({ code: 401, message: "invalid signature" });
});

test("requests to guests are counted", async () => {
  const { id } = await world.createSandbox();
  await list(id);
  const text = await (await world.request("GET", "/metrics")).text();
  expect(text).toMatch(/^roost_proxy_requests_total\{result="2xx"\} [1-9]/m);
  expect(text).toMatch(/^roost_proxy_requests_open 0$/m);
});

test("a shutdown cuts streams, and does not wait for them for long", { timeout: 60_000 }, async () => {
  await using another = await World.start({ options: { drainTimeoutSec: 30 } });
  const before = world;
  world = another;
  try {
    const { id } = await another.createSandbox();
    const ended = endOf(await start(id));
    await another.controlPlane.close();
    expect(await ended).toBe("cut");
  } finally {
    world = before;
  }
});
