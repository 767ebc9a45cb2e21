import { createServer, type AddressInfo, type Server } from "node:net";

import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { afterEach, beforeEach, expect, test } from "vitest";

import { aSpec, FakeHost } from "../testing/fake-host.ts";

const app = 8080;
let server: Server;

beforeEach(async () => {
  server = createServer((socket) => socket.on("error", () => undefined).pipe(socket));
  await new Promise<void>((resolve) => {
    server.listen(0, "127.0.0.1", resolve);
  });
});
afterEach(async () => new Promise((resolve) => server.close(resolve)));

/** A running sandbox with a server on a port, of a host whose pauses wait that long. */
async function running(pauseDrainMs: number) {
  const host = await FakeHost.start({ deps: { times: { pauseDrainMs } } });
  const resolveAgent = host.network.resolvePort;
  host.network.resolvePort = (slot, port) => (port === app ? (server.address() as AddressInfo).port : resolveAgent(slot, port));
  const spec = aSpec();
  await host.client.createSandbox({ spec });
  const stateIs = async (state: SandboxState) =>
    poll({ what: `state ${SandboxState[state]}`, timeoutMs: 30_000, intervalMs: 2 }, async () => {
      const { sandbox } = await host.client.getSandbox({ sandboxId: spec.sandboxId });
      return sandbox?.state === state ? true : undefined;
    });
  return { host, id: spec.sandboxId, stateIs };
}

const untilClosed = async (tunnel: { once(event: "close", listener: () => void): unknown }) =>
  new Promise<void>((resolve) => {
    tunnel.once("close", resolve);
  });

test("a pause waits for connections to ports, which carry bytes until then, and takes no new ones", async () => {
  const { host: used, id, stateIs } = await running(60_000);
  await using host = used;
  const tunnel = await host.agent.tunnels.connect(id, app);
  const pausing = host.client.pauseSandbox({ sandboxId: id });
  await stateIs(SandboxState.PAUSING);
  await expect(host.agent.tunnels.connect(id, app)).rejects.toMatchObject({ code: "sandbox_wrong_state" });
  const echoed = new Promise((resolve) => tunnel.once("data", resolve));
  tunnel.write("still here");
  expect(String(await echoed)).toBe("still here");
  expect((await host.client.getSandbox({ sandboxId: id })).sandbox?.state).toBe(SandboxState.PAUSING);
  tunnel.end();
  expect((await pausing).sandbox?.state).toBe(SandboxState.PAUSED);
});

test("one that does not end in time is cut, and the sandbox is paused", async () => {
  const { host: used, id } = await running(50);
  await using host = used;
  const tunnel = await host.agent.tunnels.connect(id, app);
  const closed = untilClosed(tunnel);
  expect((await host.client.pauseSandbox({ sandboxId: id })).sandbox?.state).toBe(SandboxState.PAUSED);
  await closed;
});

test("the guest agent's are not waited for: a command that runs goes on after the pause", async () => {
  const { host: used, id } = await running(2 ** 31 - 1);
  await using host = used;
  const tunnel = await host.agent.tunnels.connect(id, 49_983);
  const closed = untilClosed(tunnel);
  expect((await host.client.pauseSandbox({ sandboxId: id })).sandbox?.state).toBe(SandboxState.PAUSED);
  await closed;
});

test("a VM that ends while its connections are waited for ends the wait", async () => {
  const { host: used, id, stateIs } = await running(2 ** 31 - 1);
  await using host = used;
  await host.agent.tunnels.connect(id, app);
  const failure = host.client.pauseSandbox({ sandboxId: id }).then(() => undefined, String);
  await stateIs(SandboxState.PAUSING);
  await host.driver.end(id, { signal: "SIGKILL" });
  expect(await failure).toMatch(/sandbox/);
});
