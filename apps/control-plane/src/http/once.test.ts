import { randomUUID } from "node:crypto";

import { endpoints } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { hostError } from "../testing/fake-host.ts";
import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(() => {
  world.host.createFailure = undefined;
});

const named = (key: string) => ({ "idempotency-key": key });
const post = async (path: string, body: unknown, headers: Record<string, string>) => {
  const answer = await world.request("POST", path, body, headers);
  return {
    status: answer.status,
    headers: answer.headers,
    body: (await answer.json()) as Record<string, unknown> & { error: { code: string; message: string } },
  };
};
const sandboxCount = async () =>
  ((await (await world.request("GET", "/v1/sandboxes?limit=100")).json()) as { sandboxes: unknown[] }).sandboxes.length;

test("a create that is sent again makes one sandbox, and is answered the same", async () => {
  const key = randomUUID();
  const before = await sandboxCount();
  const first = await post("/v1/sandboxes", { metadata: { a: "1", b: "2" } }, named(key));
  expect(first.status).toBe(201);
  const again = await post("/v1/sandboxes", { metadata: { b: "2", a: "1" } }, named(key));
  expect(again).toMatchObject({ status: 201, body: first.body });
  expect(again.headers.get("roost-replayed")).toBe("true");
  expect(again.headers.get("roost-operation-id")).toBe(first.headers.get("roost-operation-id"));
  expect(first.headers.get("roost-replayed")).toBeNull();
  expect(await sandboxCount()).toBe(before + 1);
});

test("of many at once with one key one is done; the others wait for its answer", async () => {
  const key = randomUUID();
  let release = () => {};
  world.host.createGate = new Promise((resolve) => (release = resolve));
  const asked = Array.from({ length: 8 }, async () => post("/v1/sandboxes", {}, named(key)));
  await poll({ what: "the create on the host", timeoutMs: 30_000, intervalMs: 5 }, async () =>
    [...world.host.sandboxes.values()].some(({ state }) => state === SandboxState.CREATING) ? true : undefined,
  );
  release();
  world.host.createGate = undefined;
  const answers = await Promise.all(asked);
  expect(new Set(answers.map(({ body }) => body["id"])).size).toBe(1);
  expect(answers.every(({ status }) => status === 201)).toBe(true);
});

test("another request with the same key is refused", async () => {
  const key = randomUUID();
  await post("/v1/sandboxes", {}, named(key));
  expect(await post("/v1/sandboxes", { vcpus: 2 }, named(key))).toMatchObject({
    status: 422,
    body: { error: { code: "idempotency_key_reused" } },
  });
});

test("the same key for another endpoint is another key", async () => {
  const key = randomUUID();
  const { body } = await post("/v1/sandboxes", {}, named(key));
  const path = `/v1/sandboxes/${String(body["id"])}/pause`;
  expect(await post(path, {}, named(key))).toMatchObject({ status: 200, body: { state: "paused" } });
});

test("the same path with another sandbox is another request", async () => {
  const [one, two] = await Promise.all([world.createSandbox(), world.createSandbox()]);
  const key = randomUUID();
  expect((await post(`/v1/sandboxes/${one.id}/pause`, {}, named(key))).status).toBe(200);
  expect((await post(`/v1/sandboxes/${two.id}/pause`, {}, named(key))).status).toBe(422);
});

test("a failure that says nothing about a second try is tried again; one that does is repeated", async () => {
  const key = randomUUID();
  world.host.createFailure = hostError("capacity_exhausted", "full");
  expect((await post("/v1/sandboxes", {}, named(key))).status).toBe(503);
  expect((await post("/v1/sandboxes", {}, named(key))).status).toBe(201);

  const other = randomUUID();
  const { id } = await world.createSandbox();
  world.host.images.failures.set("checkpointSandbox", hostError("image_damaged", "the disk is broken"));
  const failed = await post(`/v1/sandboxes/${id}/checkpoint`, undefined, named(other));
  expect(failed).toMatchObject({ status: 409, body: { error: { code: "image_damaged" } } });
  expect(await post(`/v1/sandboxes/${id}/checkpoint`, undefined, named(other))).toMatchObject({ status: 409, body: failed.body });
  expect((await post(`/v1/sandboxes/${id}/checkpoint`, undefined, named(randomUUID()))).status).toBe(201);
});

test("what was refused before anything was begun can be sent again with the same key", async () => {
  const key = randomUUID();
  expect((await post("/v1/sandboxes", { template: "nosuch" }, named(key))).status).toBe(404);
  expect((await post("/v1/sandboxes", {}, named(key))).status).toBe(201);
});

test("a named request goes on when its caller is gone, and can be asked for", async () => {
  const key = randomUUID();
  let release = () => {};
  world.host.createGate = new Promise((resolve) => (release = resolve));
  const gone = new AbortController();
  const headers = { "x-api-key": world.key, "content-type": "application/json", ...named(key) };
  const asked = fetch(`${world.url}/v1/sandboxes`, { method: "POST", headers, body: "{}", signal: gone.signal });
  const creating = () => [...world.host.sandboxes.values()].find(({ state }) => state === SandboxState.CREATING)?.spec?.sandboxId;
  const id = await poll({ what: "the create on the host", timeoutMs: 30_000, intervalMs: 5 }, creating);
  gone.abort();
  await expect(asked).rejects.toThrow(/abort/i);
  release();
  world.host.createGate = undefined;
  expect(await post("/v1/sandboxes", {}, named(key))).toMatchObject({ status: 201, body: { id } });
});

test.each(["", "a".repeat(256), "tab\tin it"])("a key that is none is refused: %j", async (key) => {
  expect(await post("/v1/sandboxes", {}, named(key))).toMatchObject({ status: 400, body: { error: { code: "request_invalid" } } });
});

test("a header that nothing would come of is refused", async () => {
  const { id } = await world.createSandbox();
  const answer = await post(`/v1/sandboxes/${id}/exec`, { cmd: "true" }, named("a"));
  expect(answer).toMatchObject({ status: 400, body: { error: { message: expect.stringContaining("Idempotency-Key") as string } } });
});

test("a fork and a snapshot that are sent again are done once", async () => {
  const { id } = await world.createSandbox();
  const key = randomUUID();
  const first = await post(`/v1/sandboxes/${id}/fork`, { count: 2 }, named(key));
  expect(await post(`/v1/sandboxes/${id}/fork`, { count: 2 }, named(key))).toMatchObject({ status: 201, body: first.body });
  const made = await post("/v1/snapshots", { sandbox_id: id, name: "once" }, named(key));
  expect(made.status).toBe(201);
  expect(await post("/v1/snapshots", { sandbox_id: id, name: "once" }, named(key))).toMatchObject({ status: 201, body: made.body });
  expect((await post("/v1/snapshots", { sandbox_id: id, name: "once" }, named(randomUUID()))).status).toBe(409);
});

test("operations can be asked after, by id and by what they are about", async () => {
  const created = await world.request("POST", "/v1/sandboxes", {});
  const { id } = (await created.json()) as { id: string };
  await world.request("POST", `/v1/sandboxes/${id}/pause`, {});
  const operationId = created.headers.get("roost-operation-id") ?? "";
  const one = await (await world.request("GET", `/v1/operations/${operationId}`)).json();
  expect(endpoints.getOperation.answers[200].parse(one)).toMatchObject({
    kind: "sandbox.create",
    state: "succeeded",
    made: [id],
    error: null,
  });
  const list = await (await world.request("GET", `/v1/operations?subject=${id}`)).json();
  expect(endpoints.listOperations.answers[200].parse(list).operations.map(({ kind }) => kind)).toEqual(["sandbox.pause", "sandbox.create"]);
  expect((await world.request("GET", `/v1/operations/${randomUUID()}`)).status).toBe(404);
  expect((await world.request("GET", "/v1/operations/nope")).status).toBe(400);
});
