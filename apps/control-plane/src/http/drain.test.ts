import { poll } from "@roost/kit";
import { expect, test } from "vitest";

import { World } from "../testing/world.ts";

test("a shutdown finishes what runs, refuses what is new, and tells sockets why", { timeout: 60_000 }, async () => {
  await using world = await World.start({ options: { drainTimeoutSec: 10 } });
  const { id } = await world.createSandbox();
  const socket = await world.socket(`/v1/sandboxes/${id}/exec/stream`).open();
  socket.send({ type: "start", cmd: "sleep", args: ["60"] });
  await socket.until("start");

  let release = () => {};
  world.host.createGate = new Promise((resolve) => {
    release = resolve;
  });
  const kept = world.request("POST", "/v1/sandboxes");
  await poll({ what: "the create", timeoutMs: 30_000, intervalMs: 2 }, () => (world.host.sandboxes.size === 2 ? true : undefined));
  const draining = world.controlPlane.drain();
  expect(world.controlPlane.drain()).toBe(draining);
  expect(await socket.ended).toEqual({ code: 1001 });
  await expect(fetch(`${world.url}/health`)).rejects.toThrow("fetch failed"); // nothing listens any more
  release();
  expect((await kept).status).toBe(201);
  await draining;
  await world.controlPlane.close();
});

test("a request that does not end is cut off at the deadline", { timeout: 60_000 }, async () => {
  await using world = await World.start({ options: { drainTimeoutSec: 0 } });
  world.host.createGate = new Promise(() => undefined);
  const stuck = world.request("POST", "/v1/sandboxes");
  stuck.catch(() => undefined);
  await poll({ what: "the create", timeoutMs: 30_000, intervalMs: 2 }, () => (world.host.sandboxes.size === 1 ? true : undefined));
  await world.controlPlane.close();
  await expect(stuck).rejects.toThrow("fetch failed");
});
