import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import type { Ports } from "./ports.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let id: string;
let ports: Ports;
beforeEach(async () => {
  api = await FakeApi.start();
  const roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
  ({ id } = await roost.sandboxes.create());
  ({ ports } = roost.sandbox(id));
});
afterEach(() => api[Symbol.asyncDispose]());

test("who may reach ports is changed, one by one and all at once", async () => {
  expect(await ports.list()).toMatchObject({ access: "private", ports: {}, url: expect.stringContaining(`{port}-${id}.`) as string });
  expect(await ports.set(8000, "public")).toMatchObject({ port: 8000, access: "public" });
  expect(await ports.get(8000)).toMatchObject({ access: "public", url: expect.stringContaining(`//8000-${id}.`) as string });
  expect(await ports.set(8000, null)).toMatchObject({ access: "private" });
  expect(await ports.replace({ access: "public", ports: { 22: "private" } })).toMatchObject({ access: "public", ports: { 22: "private" } });
});

test("a URL is signed for a path and a time, and has defaults for both", async () => {
  const before = Date.now();
  const { url, expires_at: end } = await ports.sign(3000, { path: "/a?b=c", expires_in_sec: 60 });
  expect(new URL(url)).toMatchObject({ pathname: "/a", host: `3000-${id}.sandbox.localhost:7070` });
  expect(Date.parse(end) - before).toBeLessThan(120_000);
  expect(Date.parse((await ports.sign(3000)).expires_at) - before).toBeGreaterThan(3_000_000);
  expect(api.seen.at(-1)).toBe(`POST /v1/sandboxes/${id}/ports/3000/urls`);
});

test("the token stays until it is rotated", async () => {
  const { token, header } = await ports.token();
  expect(header).toBe("roost-traffic-token");
  expect(await ports.token()).toEqual({ token, header });
  expect((await ports.rotateToken()).token).not.toBe(token);
});
