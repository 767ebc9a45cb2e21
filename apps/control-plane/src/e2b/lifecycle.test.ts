import { afterAll, beforeAll, beforeEach, describe, expect, test } from "vitest";

import { askE2b, makeE2bSandbox } from "../testing/e2b-calls.ts";
import { World } from "../testing/world.ts";

let world: World;
let id: string;
beforeAll(async () => {
  world = await World.start();
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(async () => {
  id = await make({});
});

const ask = async (method: string, path: string, body?: unknown) => askE2b(world, method, path, body);
const make = async (more: object) => (await makeE2bSandbox(world, more)).sandboxID;
const post = async (path: string, body?: unknown) => ask("POST", `/sandboxes/${id}/${path}`, body);
const detail = async () => (await ask("GET", `/sandboxes/${id}`)).body;
const endAt = async () => Date.parse(String((await detail())["endAt"]));

describe.each(["/sandboxes", "/v2/sandboxes"])("%s/…/connect", (prefix) => {
  const connect = async (body?: unknown) => ask("POST", `${prefix}/${id}/connect`, body);

  test("leaves a later end as it is, to the digit, and moves an earlier one", async () => {
    const before = (await detail())["endAt"];
    const { status, body } = await connect({ timeout: 10 });
    expect(status).toBe(200);
    expect(body).toMatchObject({ sandboxID: id, envdVersion: "0.6.13", envdAccessToken: expect.any(String) });
    expect((await detail())["endAt"]).toBe(before);
    expect((await connect({ timeout: 3600 })).status).toBe(200);
    expect(await endAt()).toBeGreaterThanOrEqual(Date.parse(String(before)) + 3_300_000 - 1000);
  });

  test("resumes a paused one, which keeps its token", async () => {
    const token = (await detail())["envdAccessToken"];
    await post("pause");
    expect(await detail()).toMatchObject({ state: "paused", envdAccessToken: token });
    const { status, body } = await connect({ timeout: 60 });
    expect(status).toBe(201);
    expect(body).toMatchObject({ envdAccessToken: token });
    expect(await detail()).toMatchObject({ state: "running" });
    await post("pause");
    expect((await connect({ timeout: 60, memory: false })).status).toBe(201);
    expect((await ask("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ start_path: "boot" });
  });

  test.each([{ timeout: 0 }, { timeout: "x" }, { timeout: 1e9 }, { timeout: 60, memory: "no" }])("refuses %j", async (body) => {
    expect(await connect(body)).toMatchObject({ status: 400, body: { code: 400 } });
  });
});

test("only the newer connect has a default", async () => {
  expect((await post("connect", {})).status).toBe(400);
  expect((await ask("POST", `/v2/sandboxes/${id}/connect`)).status).toBe(200);
});

describe("a resume", () => {
  test("wants a paused one", async () => {
    expect(await post("resume", {})).toMatchObject({ status: 409, body: { code: 409 } });
    await post("pause");
    expect(await post("resume", { timeout: 60, autoPause: true })).toMatchObject({ status: 201, body: { sandboxID: id } });
    expect(await detail()).toMatchObject({ state: "running", lifecycle: { onTimeout: "pause" } });
  });
});

describe("a pause", () => {
  test("is once, with or without a body, and with or without memory", async () => {
    expect((await post("pause")).status).toBe(204);
    expect(await post("pause")).toMatchObject({ status: 409, body: { code: 409, error_code: "sandbox_wrong_state" } });
    await post("connect", { timeout: 60 });
    expect((await post("pause", { memory: false })).status).toBe(204);
    expect((await ask("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ has_memory: false });
    await post("connect", { timeout: 60 });
    expect((await post("pause", { memory: null, mode: "full" })).status).toBe(204);
    expect((await ask("GET", `/v1/sandboxes/${id}`)).body).toMatchObject({ has_memory: true });
  });

  test("with a wrong type names it", async () => {
    expect(await post("pause", { memory: "no" })).toMatchObject({ status: 400, body: { message: expect.stringContaining("memory") } });
  });
});

describe("a timeout", () => {
  test("may be shorter, and counts from now", async () => {
    const before = await endAt();
    expect((await post("timeout", { timeout: 30 })).status).toBe(204);
    expect(await endAt()).toBeLessThan(before);
    expect((await post("timeout", { timeout: 3600 })).status).toBe(204);
    expect(await endAt()).toBeGreaterThan(before);
  });

  test("of 0 ends the sandbox", async () => {
    expect((await post("timeout", { timeout: 0 })).status).toBe(204);
    expect((await ask("GET", `/sandboxes/${id}`)).status).toBe(404);
  });

  test.each([{}, { timeout: -1 }, { timeout: 0.5 }, { timeout: "5" }, { timeout: 1e9 }])("of %j is refused", async (body) => {
    expect(await post("timeout", body)).toMatchObject({ status: 400, body: { message: expect.stringContaining("timeout") } });
  });

  test("is nothing that a paused one has: it is not found", async () => {
    await post("pause");
    for (const answer of [await post("timeout", { timeout: 30 }), await post("refreshes", { duration: 30 })]) {
      expect(answer).toMatchObject({
        status: 404,
        body: { code: 404, error_code: "sandbox_not_found", message: expect.stringContaining("paused") },
      });
    }
  });
});

test("a refresh never shortens, and gives 15 s at least", async () => {
  const before = (await detail())["endAt"];
  for (const body of [undefined, {}, { duration: 0 }, { duration: 200 }]) expect((await post("refreshes", body)).status).toBe(204);
  expect((await detail())["endAt"]).toBe(before);
  expect((await post("refreshes", { duration: 3600 })).status).toBe(204);
  expect(await endAt()).toBeGreaterThan(Date.parse(String(before)));
  expect((await post("refreshes", { duration: 3601 })).status).toBe(400);
});

describe("a fork", () => {
  test("makes sandboxes with what the parent has and time of their own", async () => {
    id = await make({ metadata: { a: "b" }, autoPause: true, network: { allowPublicTraffic: false } });
    const { status, body } = await post("fork", { count: 2, timeout: 600 });
    expect(status).toBe(201);
    const children = body as unknown as { sandbox: Record<string, unknown> }[];
    expect(children).toHaveLength(2);
    const tokens = new Set([(await detail())["envdAccessToken"]]);
    for (const { sandbox } of children) {
      expect(sandbox).toMatchObject({ templateID: "base", envdVersion: "0.6.13", trafficAccessToken: expect.any(String) });
      tokens.add(sandbox["envdAccessToken"]);
      const child = (await ask("GET", `/sandboxes/${String(sandbox["sandboxID"])}`)).body;
      expect(child).toMatchObject({ metadata: { a: "b" }, lifecycle: { onTimeout: "pause" }, network: { allowPublicTraffic: false } });
      expect(Date.parse(String(child["endAt"])) - Date.parse(String(child["startedAt"]))).toBeGreaterThanOrEqual(600_000);
    }
    expect(tokens.size).toBe(3);
  });

  test("tells of each child", async () => {
    world.host.images.failingChildren.set(1, { code: "capacity_exhausted", message: "full" });
    const { status, body } = await post("fork", { count: 3 });
    expect(status).toBe(201);
    expect(body).toEqual([
      { sandbox: expect.objectContaining({ sandboxID: expect.any(String) }) },
      { error: { code: 503, message: "full", error_code: "capacity_exhausted" } },
      { sandbox: expect.objectContaining({ sandboxID: expect.any(String) }) },
    ]);
  });

  test("of a paused one works, and needs no body", async () => {
    await post("pause");
    expect((await post("fork")).body).toHaveLength(1);
    expect(await detail()).toMatchObject({ state: "paused" });
  });

  test.each([{ count: 0 }, { count: 101 }, { count: "2" }, { timeout: 0 }])("with %j is refused", async (body) => {
    expect(await post("fork", body)).toMatchObject({ status: 400 });
  });
});
