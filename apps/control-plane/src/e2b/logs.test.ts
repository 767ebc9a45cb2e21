import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const written = {
  timeMs: 1_800_000_000_123n,
  level: "info",
  message: "hello\u001B[0m",
  fields: { logger: "process", event_type: "stdout", pid: "7" },
};
const told = {
  timeMs: 1_800_000_000_500n,
  level: "error",
  message: "its VM ended",
  fields: { logger: "platform", event_type: "sandbox.vm_lost" },
};

async function create(): Promise<string> {
  const { id } = await world.createSandbox();
  world.host.logs.set(id, [written, told]);
  return id;
}

interface Answer {
  readonly code?: number;
  readonly message?: string;
  readonly logs: readonly { readonly timestamp: string; readonly line: string }[];
  readonly logEntries?: readonly object[];
}

async function get(path: string): Promise<{ readonly status: number; readonly body: Answer }> {
  const answer = await world.request("GET", path);
  return { status: answer.status, body: (await answer.json()) as Answer };
}
const asked = () => world.host.logsAsked.at(-1);

test("v1: entries, and the same as lines of JSON", async () => {
  const id = await create();
  const { status, body } = await get(`/sandboxes/${id}/logs`);
  expect(status).toBe(200);
  const entry = { timestamp: "2027-01-15T08:00:00.123Z", message: "hello\u001B[0m", level: "info", fields: written.fields };
  expect(body.logEntries).toEqual([
    entry,
    { timestamp: "2027-01-15T08:00:00.500Z", message: "its VM ended", level: "error", fields: told.fields },
  ]);
  const lines = body.logs;
  expect(lines.map(({ timestamp }) => timestamp)).toEqual(["2027-01-15T08:00:00.123Z", "2027-01-15T08:00:00.500Z"]);
  // What E2B's CLI reads of a line: it must parse, `level` and `logger` are texts
  expect(JSON.parse(lines[0]?.line ?? "")).toEqual({
    timestamp: entry.timestamp,
    level: "info",
    message: entry.message,
    logger: "process",
    event_type: "stdout",
    pid: "7",
  });
  expect(asked()).toMatchObject({ sandboxId: id, limit: 1000, backward: false, level: "", search: "" });
  expect(asked()?.cursorMs).toBeUndefined();
  await get(`/sandboxes/${id}/logs?start=1800000000124&limit=5`);
  expect(asked()).toMatchObject({ cursorMs: 1_800_000_000_124n, limit: 5 });
  await get(`/sandboxes/${id}/logs?limit=5000&unknown=1`);
  expect(asked()).toMatchObject({ limit: 1000 });
});

test("v2: by cursor, direction, level and text", async () => {
  const id = await create();
  const { status, body } = await get(`/v2/sandboxes/${id}/logs`);
  expect([status, body.logs[1]]).toEqual([
    200,
    { timestamp: "2027-01-15T08:00:00.500Z", message: "its VM ended", level: "error", fields: told.fields },
  ]);
  expect(body.logEntries).toBeUndefined();
  await get(`/v2/sandboxes/${id}/logs?cursor=42&direction=backward&level=warn&search=a%26b&limit=10`);
  expect(asked()).toMatchObject({ cursorMs: 42n, backward: true, level: "warn", search: "a&b", limit: 10 });
});

test("limit 0 is no entries, not as many as there are", async () => {
  const id = await create();
  expect((await get(`/v2/sandboxes/${id}/logs?limit=0`)).body).toEqual({ logs: [] });
  expect((await get(`/sandboxes/${id}/logs?limit=0`)).body).toEqual({ logs: [], logEntries: [] });
});

test.each([
  ["cursor=x", "cursor"],
  ["cursor=-1", "cursor"],
  ["cursor=1.5", "cursor"],
  ["limit=1001", "limit"],
  ["direction=up", "direction"],
  ["level=loud", "level"],
  [`search=${"x".repeat(257)}`, "search"],
])("%s is refused, and the answer names it", async (query, field) => {
  const id = await create();
  const { status, body } = await get(`/v2/sandboxes/${id}/logs?${query}`);
  expect([status, body.code]).toEqual([400, 400]);
  expect(body.message).toContain(field);
});

test("a killed sandbox's log is there as long as its host keeps it; an unknown sandbox is 404", async () => {
  const id = await create();
  expect((await world.request("DELETE", `/sandboxes/${id}`)).status).toBe(204);
  expect((await get(`/sandboxes/${id}/logs`)).body.logs.length).toBe(2);
  world.host.logs.delete(id);
  expect((await get(`/v2/sandboxes/${id}/logs`)).body).toEqual({ logs: [] });
  for (const path of ["/sandboxes/inobody/logs", "/v2/sandboxes/inobody/logs", "/sandboxes/No%20Id/logs"]) {
    const { status, body } = await get(path);
    expect([status, body.code], path).toEqual([404, 404]);
  }
});

test("a level that is not known here is shown as info", async () => {
  const id = await create();
  world.host.logs.set(id, [{ ...written, level: "trace" }]);
  expect((await get(`/v2/sandboxes/${id}/logs`)).body.logs).toMatchObject([{ level: "info" }]);
});

test("nobody reads them without a key", async () => {
  const id = await create();
  for (const path of [`/sandboxes/${id}/logs`, `/v2/sandboxes/${id}/logs`, `/sandboxes/${id}/metrics`])
    expect((await fetch(world.url + path)).status).toBe(401);
});
