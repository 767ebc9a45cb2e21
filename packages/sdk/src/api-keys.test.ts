import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import { FakeApi } from "./testing/fake-api.ts";

let api: FakeApi;
let roost: RoostClient;
beforeEach(async () => {
  api = await FakeApi.start();
  roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
});
afterEach(() => api[Symbol.asyncDispose]());

test("keys are made, listed without their text, and deleted", async () => {
  const made = await roost.keys.create({ name: "ci", scopes: ["sandboxes:read"], expires_in_sec: 3600 });
  expect(made).toMatchObject({ key: expect.stringMatching(/^roost_/), scopes: ["sandboxes:read"] });
  const listed = await roost.keys.list();
  expect(listed.map(({ id }) => id)).toEqual([made.id]);
  expect(JSON.stringify(listed)).not.toContain(made.key);
  await roost.keys.delete(made.id);
  expect(await roost.keys.list()).toEqual([]);
  await expect(roost.keys.delete(made.id)).rejects.toMatchObject({ code: "api_key_not_found", status: 404 });
});

test("what the contract refuses is refused", async () => {
  for (const input of [{ name: "" }, { name: "x", scopes: [] }, { name: "x", scopes: ["fly"] }, { name: "x", expires_in_sec: 1 }]) {
    await expect(roost.keys.create(input as never)).rejects.toMatchObject({ code: "request_invalid" });
  }
});
