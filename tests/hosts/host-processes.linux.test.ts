import { stat } from "node:fs/promises";
import { join } from "node:path";

import { poll } from "@roost/kit";
import { afterAll, afterEach, beforeAll, expect, test } from "vitest";

import { HostsWorld, type WorldHost } from "../support/hosts-world.ts";

/** What becomes of hosts without a VM on them: a real PostgreSQL, real processes, real mutual TLS over links that can be cut. */
const timeoutMs = 60_000;
let world: HostsWorld;
beforeAll(async () => {
  world = await HostsWorld.start(2, {
    ROOST_HOST_HEARTBEAT_SEC: "0.5",
    ROOST_HOST_LEASE_SEC: "2",
    // Neither the accelerator nor a memory image is tried: no VM runs here
    ROOST_ACCELERATOR: "tcg",
    ROOST_MEMORY_IMAGES: "false",
  });
});
afterEach(async ({ task }) => {
  if (task.result?.state === "fail") await world.saveEvidence(task.name);
});
afterAll(async () => {
  await world?.[Symbol.asyncDispose]();
});

async function untilReachable(host: WorldHost, isReachable: boolean): Promise<void> {
  await poll({ what: `${host.name} to be ${isReachable ? "reachable" : "unreachable"}`, timeoutMs, intervalMs: 100 }, async () =>
    (await world.client.hosts.get(host.id)).is_reachable === isReachable ? true : undefined,
  );
}

function the(number: number): WorldHost {
  const host = world.hosts[number];
  if (host === undefined) throw new Error(`there is no host ${number}`);
  return host;
}

test("hosts register, and tell what they are; no token is in a log, and nobody else can read a key", async () => {
  for (const host of world.hosts) await world.register(host);
  const hosts = await world.client.hosts.list();
  expect(hosts.map(({ name, state, is_reachable: isReachable }) => ({ name, state, isReachable }))).toEqual(
    world.hosts.map(({ name }) => ({ name, state: "ready", isReachable: true })),
  );
  for (const { description, health, certificate } of hosts) {
    expect(description).toMatchObject({ accelerator: "tcg", vmm: "qemu" });
    expect(health).toEqual({ is_healthy: true, problems: [] });
    expect(certificate?.fingerprint).toMatch(/^[0-9a-f]{64}$/);
  }
  const token = /[0-9a-f]{64}\.[0-9a-f]{32}/;
  for (const output of [world.controlPlaneOutput, ...world.hosts.map((host) => host.output)]) expect(output).not.toMatch(token);
  expect((await stat(join(the(0).folder, "host-identity.json"))).mode & 0o777).toBe(0o600);
  expect((await world.client.templates.list()).map(({ name }) => name)).toContain("base"); // asked of the hosts, over their listeners
});

test("a host agent that was killed is unreachable, and comes back without a token", async () => {
  const host = the(0);
  await host.killHard();
  await untilReachable(host, false);
  const { id } = host;
  await host.start();
  expect(host.id).toBe(id);
  await untilReachable(host, true);
});

test("a link that is cut: the lease ends, and begins again with the link", async () => {
  const host = the(1);
  await host.cutLink();
  await untilReachable(host, false);
  await untilReachable(the(0), true); // nobody else suffers
  await host.mendLink();
  await untilReachable(host, true);
});

test("a control plane that was killed is found again by all of its hosts, which go on", async () => {
  await world.killControlPlane();
  await world.startControlPlane();
  for (const host of world.hosts) await untilReachable(host, true);
});

test("a host agent starts and ends in order while the control plane is away", async () => {
  const host = the(0);
  await world.killControlPlane();
  expect(await host.stop()).toBe(0);
  await host.start({ isControlPlaneAway: true });
  expect(await host.health()).toMatchObject({ healthy: true, hostId: host.id, timeHeardMs: null }); // it has just begun
  await world.startControlPlane();
  await untilReachable(host, true);
  expect(await host.health()).toMatchObject({ healthy: true, wanted: "ready", ended: null });
});

test("what an operator wants of a host reaches it", async () => {
  const host = the(0);
  await world.client.hosts.cordon(host.id);
  const wanted = async (state: string) =>
    poll({ what: `the host to hear "${state}"`, timeoutMs, intervalMs: 100 }, async () =>
      (await host.health())["wanted"] === state ? true : undefined,
    );
  await wanted("cordoned");
  await world.client.hosts.uncordon(host.id);
  await wanted("ready");
});

test("the control plane ends in order, with its hosts connected", async () => {
  expect(await world.stopControlPlane()).toBe(0);
  await world.startControlPlane();
  for (const host of world.hosts) await untilReachable(host, true);
});

test("a deleted host is told so, stays, and can register again", async () => {
  const host = the(1);
  const { id } = host;
  await world.client.hosts.delete(id);
  // It may be unwell already: the control plane was away a moment ago
  await poll({ what: "the host to hear of it", timeoutMs, intervalMs: 100 }, () =>
    host.output.includes("this host was deleted from its control plane") ? true : undefined,
  );
  expect(await host.health()).toMatchObject({ healthy: false });
  expect(host.isRunning).toBe(true);
  expect(await host.stop()).toBe(0);
  await world.register(host);
  expect(host.id).not.toBe(id);
  await untilReachable(host, true);
});
