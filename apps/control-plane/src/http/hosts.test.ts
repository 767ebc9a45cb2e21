import type { CreatedHost, Host, HostDeletion, Sandbox } from "@roost/contract";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start({ options: { hostsPort: 0, hostsAddress: "127.0.0.1" } });
}, 120_000);
afterAll(async () => world[Symbol.asyncDispose]());

interface Asked<Answer> {
  readonly status: number;
  readonly body: Answer & { readonly error?: { readonly code: string } };
}

async function ask<Answer>(method: string, path: string, body?: unknown, headers: Record<string, string> = {}): Promise<Asked<Answer>> {
  const answer = await world.request(method, path, body, headers);
  const text = await answer.text();
  return {
    status: answer.status,
    body: (text === "" ? undefined : JSON.parse(text)) as Asked<Answer>["body"],
  };
}

test("an operator announces a host, changes it, and removes it", async () => {
  const { status, body } = await ask<CreatedHost>("POST", "/v1/hosts", { name: "rack-1", tags: ["b", "a", "b"] });
  expect(status).toBe(201);
  expect(body.host).toMatchObject({ name: "rack-1", state: "pending", is_reachable: false, tags: ["a", "b"], team_id: null });
  expect(body.registration.token).toMatch(/^[0-9a-f]{64}\.[0-9a-f]{32}$/);
  const path = `/v1/hosts/${body.host.id}`;
  expect((await ask<Host>("PATCH", path, { name: "rack-2" })).body).toMatchObject({ name: "rack-2", tags: ["a", "b"] });
  const token = await ask<{ readonly token: string }>("POST", `${path}/token`);
  expect(token.status).toBe(201);
  expect(token.body.token).not.toBe(body.registration.token);
  expect(await ask("POST", `${path}/drain`, { mode: "pause" })).toMatchObject({
    status: 409,
    body: { error: { code: "host_wrong_state" } },
  });
  expect((await ask<HostDeletion>("GET", `${path}/delete-preview`)).body).toEqual({
    sandbox_count: 0,
    sandboxes: [],
    template_count: 0,
    templates: [],
  });
  const shown = JSON.stringify((await ask("GET", path)).body) + JSON.stringify((await ask("GET", "/v1/hosts")).body);
  expect(shown).not.toContain(token.body.token);
  expect((await ask("DELETE", path)).status).toBe(204);
  expect(await ask("GET", path)).toMatchObject({ status: 404, body: { error: { code: "host_not_found" } } });
});

test("a host that is drained gets no sandboxes; what runs is paused; both again after it is given back", async () => {
  const { id } = await world.createSandbox();
  expect((await ask<Sandbox>("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ state: "running", host_state: "ready" });
  // There is no other one: nothing is paused for that
  const moving = await ask<Host>("POST", "/v1/hosts/host-1/drain", { mode: "move" });
  expect(moving.body).toMatchObject({ state: "draining", drain: { mode: "move" } });
  await expect
    .poll(async () => (await ask<Host>("GET", "/v1/hosts/host-1")).body.drain?.problem ?? "", { timeout: 30_000, interval: 50 })
    .toContain(`sandbox ${id}: no other host`);
  expect((await ask<Sandbox>("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ state: "running", host_state: "draining" });
  expect((await ask<Host>("POST", "/v1/hosts/host-1/drain", {})).body).toMatchObject({ state: "draining", drain: { mode: "pause" } });
  await expect
    .poll(async () => (await ask<Host>("GET", "/v1/hosts/host-1")).body.drain?.time_done ?? null, { timeout: 30_000, interval: 50 })
    .not.toBeNull();
  expect((await ask<Sandbox>("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ state: "paused", host_state: "draining" });
  const refused = await ask("POST", "/v1/sandboxes", {});
  expect(refused.status).toBe(503);
  expect(await ask("POST", `/v1/sandboxes/${id}/resume`, {})).toMatchObject({ status: 503, body: { error: { code: "host_draining" } } });
  expect((await ask<Host>("POST", "/v1/hosts/host-1/uncordon")).body).toMatchObject({ state: "ready", drain: null });
  expect((await ask<Sandbox>("POST", `/v1/sandboxes/${id}/resume`, {})).body).toMatchObject({ state: "running", host_state: "ready" });
  expect((await ask("POST", "/v1/sandboxes", {})).status).toBe(201);
});

test("hosts are the platform's: who has no scope for them sees none, and no more of its sandboxes' host than how that is", async () => {
  const { body: key } = await ask<{ readonly key: string }>("POST", "/v1/keys", { name: "user", scopes: ["sandboxes:read"] });
  const asUser = { "x-api-key": key.key };
  for (const [method, path] of [
    ["GET", "/v1/hosts"],
    ["GET", "/v1/hosts/host-1"],
    ["POST", "/v1/hosts/host-1/cordon"],
    ["DELETE", "/v1/hosts/host-1"],
  ] as const) {
    expect((await ask(method, path, undefined, asUser)).status).toBe(403);
  }
  const { id } = await world.createSandbox();
  const seen = (await ask<Sandbox>("GET", `/v1/sandboxes/${id}`, undefined, asUser)).body;
  expect(seen.host_state).toBe("ready");
  expect(JSON.stringify(seen)).not.toContain("host-1");
});
