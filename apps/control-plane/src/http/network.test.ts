import { allTraffic, sandboxEgressSchema } from "@roost/contract";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

async function ask(method: string, path: string, status: number, body?: unknown): Promise<unknown> {
  const answer = await world.request(method, `/v1/sandboxes/${path}`, body);
  const text = await answer.text();
  expect(answer.status, text).toBe(status);
  return text === "" ? undefined : (JSON.parse(text) as unknown);
}

const onHost = (id: string) => world.host.sandboxes.get(id)?.spec?.network;
const nothingSaid = {
  allow_internet: true,
  allow_out: [],
  deny_out: [],
  egress_proxy: null,
  rules: {},
  limits: { out_mbit_per_sec: null, in_mbit_per_sec: null, connections: null, connections_per_sec: null },
};
const someLimits = { out_mbit_per_sec: 10, connections: 5 };

test("a sandbox reaches the internet unless its create says something else, which its host is told before it is made", async () => {
  const { id: open } = await world.createSandbox();
  expect(sandboxEgressSchema.parse(await ask("GET", `${open}/network`, 200))).toEqual(nothingSaid);
  const { id } = await world.createSandbox({ network: { allow_internet: false, allow_out: ["Example.com"], limits: someLimits } });
  expect(onHost(id)).toMatchObject({
    allowOut: ["example.com"],
    denyOut: [allTraffic],
    limits: { outMbit: 10, inMbit: 0, connections: 5, connectionsPerSec: 0 },
  });
  expect(await ask("GET", `${id}/network`, 200)).toEqual({
    ...nothingSaid,
    allow_internet: false,
    allow_out: ["example.com"],
    limits: { ...nothingSaid.limits, ...someLimits },
  });
});

test("a change replaces all of it, and its host has it when it is answered", async () => {
  const { id } = await world.createSandbox({ network: { deny_out: ["203.0.113.0/24"], limits: someLimits } });
  expect(await ask("PUT", `${id}/network`, 200, { limits: { in_mbit_per_sec: 7 } })).toMatchObject({
    deny_out: [],
    limits: { out_mbit_per_sec: null, in_mbit_per_sec: 7, connections: null },
  });
  expect(onHost(id)).toMatchObject({ denyOut: [], limits: { outMbit: 0, inMbit: 7, connections: 0 } });
  expect(await ask("PUT", `${id}/network`, 200, {})).toEqual(nothingSaid);
});

test("limits are their own: E2B's route does not know them, and leaves them; a fork has its parent's", async () => {
  const { id } = await world.createSandbox({ network: { limits: someLimits } });
  const answer = await world.request("PUT", `/sandboxes/${id}/network`, { denyOut: ["203.0.113.7"] });
  expect(answer.status).toBe(204);
  expect(onHost(id)).toMatchObject({ denyOut: ["203.0.113.7"], limits: { outMbit: 10, connections: 5 } });
  const { results } = (await ask("POST", `${id}/fork`, 201, { count: 1 })) as {
    readonly results: readonly { readonly sandbox: { readonly id: string } }[];
  };
  expect(await ask("GET", `${results[0]?.sandbox.id}/network`, 200)).toMatchObject({ deny_out: ["203.0.113.7"], limits: someLimits });
});

test.each([
  [{ limits: { connections: 0 } }, /limits\.connections: 0 is not accepted/],
  [{ limits: { connections: 65_537 } }, /limits\.connections: 65537/],
  [{ limits: { out_mbit_per_sec: 1.5 } }, /limits\.out_mbit_per_sec: 1\.5/],
  [{ limits: { speed: 1 } }, /there is no field "speed"/],
  [{ allow_out: ["example.com"] }, /allow_out\.0: "example.com" is not accepted: domains are allowed out of what is denied/],
  [{ is_public: true }, /there is no field "is_public"/],
  [{ egress_proxy: { address: "nonsense", password: "hunter2hunter2" } }, /egress_proxy\.address: its value is not accepted/],
])("%j is refused, by name", async (network, message) => {
  const { id } = await world.createSandbox();
  const refused = (await ask("PUT", `${id}/network`, 400, network)) as { readonly error: { readonly message: string } };
  expect(refused.error.message).toMatch(message);
  expect(JSON.stringify(refused)).not.toContain("hunter2");
  expect(await ask("GET", `${id}/network`, 200)).toEqual(nothingSaid);
});

test("a proxy is shown without its password", async () => {
  const { id } = await world.createSandbox();
  const proxy = { protocol: "socks5", address: "proxy.example.com:1080", username: "me" };
  const shown = await ask("PUT", `${id}/network`, 200, { egress_proxy: { ...proxy, password: "hunter2hunter2" } });
  expect(shown).toMatchObject({ egress_proxy: proxy });
  expect(JSON.stringify(shown)).not.toContain("hunter2");
  expect(onHost(id)?.proxy?.password).toBe("hunter2hunter2");
});
