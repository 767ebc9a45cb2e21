import { expect, test } from "vitest";

import { loginFor, registryOf, type AskAws } from "./registry-credentials.ts";

const { signal } = new AbortController();
const aws = { type: "aws", access_key_id: "AKIA", secret_access_key: "secret", region: "eu-central-1" } as const;

test("each form is what a registry takes", async () => {
  expect(await loginFor({ type: "basic", username: "u", password: "p" }, signal)).toEqual({ username: "u", password: "p", token: "" });
  expect(await loginFor({ type: "token", token: "t" }, signal)).toEqual({ username: "", password: "", token: "t" });
  const gcp = await loginFor({ type: "gcp", service_account_json: '{"type":"service_account"}' }, signal);
  expect(gcp).toEqual({ username: "_json_key", password: '{"type":"service_account"}', token: "" });
  const ask: AskAws = async () => Buffer.from("AWS:pass:word").toString("base64");
  expect(await loginFor(aws, signal, ask)).toEqual({ username: "AWS", password: "pass:word", token: "" });
});

test("what AWS refuses is said without its words, which may hold the key", async () => {
  const refuse: AskAws = async () => {
    throw Object.assign(new Error("the key AKIA is bad"), { name: "UnrecognizedClientException" });
  };
  const error = await loginFor(aws, signal, refuse).catch((thrown: unknown) => thrown);
  expect(error).toMatchObject({ code: "registry_unreachable" });
  expect((error as Error).message).toContain("UnrecognizedClientException");
  expect((error as Error).message).not.toContain("AKIA");
  await expect(loginFor(aws, signal, async () => undefined)).rejects.toMatchObject({ code: "registry_unreachable" });
  await expect(loginFor(aws, signal, async () => "bm9jb2xvbg==")).rejects.toMatchObject({ code: "registry_unreachable" });
});

test.each([
  ["debian", "docker.io"],
  ["library/debian:12", "docker.io"],
  ["debian:12", "docker.io"],
  ["localhost/a", "localhost"],
  ["localhost:5000/a:1", "localhost:5000"],
  ["Registry.Example.com/team/app@sha256:0", "registry.example.com"],
])("the registry of %s is %s", (reference, registry) => {
  expect(registryOf(reference)).toBe(registry);
});
