import { endpoints } from "@roost/contract";
import { afterEach, beforeEach, expect, test } from "vitest";

import { RoostClient } from "./client.ts";
import { RoostError } from "./errors.ts";
import { FakeApi, FakeError } from "./testing/fake-api.ts";

let api: FakeApi;
let roost: RoostClient;
beforeEach(async () => {
  api = await FakeApi.start();
  roost = new RoostClient({ url: api.url, apiKey: api.apiKey });
});
afterEach(() => api[Symbol.asyncDispose]());

async function failureOf(promise: Promise<unknown>): Promise<RoostError> {
  const error: unknown = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  if (!(error instanceof RoostError)) throw new Error(`expected a RoostError, got ${String(error)}`, { cause: error });
  return error;
}

test("creates, gets, changes and deletes a sandbox", async () => {
  const created = await roost.sandboxes.create({ template: "base", metadata: { purpose: "test" } });
  expect(created).toMatchObject({ state: "running", metadata: { purpose: "test" } });
  expect((await roost.sandboxes.setTimeout(created.id, 60)).timeout_sec).toBe(60);
  await roost.sandboxes.ping(created.id);
  expect(await roost.sandbox(created.id).get()).toMatchObject({ id: created.id, timeout_sec: 60 });
  expect((await roost.sandboxes.metrics(created.id, "5m")).points).toHaveLength(3);
  expect((await roost.sandboxes.logs(created.id)).toString()).toBe("booted\n");
  await roost.sandboxes.delete(created.id);
  expect(await failureOf(roost.sandboxes.get(created.id))).toMatchObject({ code: "sandbox_not_found", status: 404, retryable: false });
});

test("the list fetches page after page and filters by labels", async () => {
  for (let count = 0; count < 5; count += 1) await roost.sandboxes.create({ metadata: { parity: String(count % 2) } });
  const ids: string[] = [];
  for await (const sandbox of roost.sandboxes.list({ limit: 2 })) ids.push(sandbox.id);
  expect(new Set(ids).size).toBe(5);
  expect(api.seen.filter((line) => line.startsWith("GET /v1/sandboxes?")).length).toBe(3);
  const odd = [];
  for await (const sandbox of roost.sandboxes.list({ metadata: { parity: "1" } })) odd.push(sandbox);
  expect(odd).toHaveLength(2);
});

test("foreground and background exec", async () => {
  const { id } = await roost.sandboxes.create();
  const result = await roost.sandbox(id).exec("sh", { args: ["-c", "cat; echo $WHO >&2; exit 3"], stdin: "hello", envs: { WHO: "me" } });
  expect(result).toMatchObject({ stdout: "hello", stderr: "me\n", exit_code: 3 });
  const started = await roost.sandbox(id).execBackground("sleep", { args: ["100"], tag: "nap" });
  expect(await roost.sandbox(id).processes.list()).toMatchObject([{ pid: started.pid, tag: "nap" }]);
  const stream = await roost.sandbox(id).processes.attach("nap");
  await roost.sandbox(id).processes.signal("nap", "SIGTERM");
  expect(await stream.exit()).toBe(143);
  expect(await failureOf(roost.sandbox(id).processes.signal("nap"))).toMatchObject({ code: "process_not_found" });
});

test("errors carry code, status, request id and when to try again", async () => {
  api.handlers.http.createSandbox = ({ response }) => {
    response.writeHead(503, { "content-type": "application/json", "retry-after": "7", "x-request-id": "req-9" });
    response.end(JSON.stringify({ error: { code: "capacity_exhausted", message: "no room" } }));
  };
  expect(await failureOf(roost.sandboxes.create())).toMatchObject({
    code: "capacity_exhausted",
    status: 503,
    retryable: true,
    retryAfterSec: 7,
    requestId: "req-9",
    message: "no room",
  });
});

test("an error of a newer server keeps its code; a gateway's page becomes answer_invalid", async () => {
  api.handlers.http.listHosts = ({ response }) =>
    void response.writeHead(418).end(JSON.stringify({ error: { code: "from_the_future", message: "?" } }));
  expect(await failureOf(roost.hosts.list())).toMatchObject({ code: "from_the_future", status: 418, retryable: false });
  api.handlers.http.listHosts = ({ response }) => void response.writeHead(503).end("<html>bad gateway</html>");
  expect(await failureOf(roost.hosts.list())).toMatchObject({ code: "answer_invalid", status: 503 });
});

test("an answer that is not what the contract says is refused", async () => {
  api.handlers.http.listHosts = () => ({ hosts: [{ id: 7 }] });
  const failure = await failureOf(roost.hosts.list());
  expect(failure.code).toBe("answer_invalid");
  expect(failure.message).toContain("hosts.0.id");
  api.handlers.http.listHosts = ({ response }) => void response.writeHead(200).end("{");
  expect((await failureOf(roost.hosts.list())).code).toBe("answer_invalid");
});

test("no server, a silent server, a wrong key, a wrong url", async () => {
  const nobody = new RoostClient({ url: "http://127.0.0.1:1", apiKey: api.apiKey });
  expect(await failureOf(nobody.hosts.list())).toMatchObject({ code: "connection_failed", retryable: true });
  expect(await failureOf(nobody.sandbox("iabc").execStream("true"))).toMatchObject({ code: "connection_failed" });

  api.handlers.http.listHosts = () => new Promise(() => undefined);
  expect(await failureOf(roost.hosts.list({ timeoutMs: 50 }))).toMatchObject({ code: "client_timeout" });

  const stranger = new RoostClient({ url: api.url, apiKey: `roost_${"0".repeat(40)}` });
  expect(await failureOf(stranger.hosts.list())).toMatchObject({ code: "api_key_invalid", status: 401 });
  expect(await failureOf(stranger.sandbox("iabc").execStream("true"))).toMatchObject({ code: "api_key_invalid", status: 401 });
  expect(() => new RoostClient({ url: "ftp://host", apiKey: api.apiKey })).toThrow("must be http:// or https://");
  expect(() => new RoostClient({ url: api.url, apiKey: "secret" })).toThrow("API key is not valid");
});

test("an abort ends a request with the signal's reason", async () => {
  api.handlers.http.createSandbox = () => new Promise(() => undefined);
  const abort = new AbortController();
  const creating = roost.sandboxes.create({}, { signal: abort.signal });
  abort.abort(new Error("changed my mind"));
  await expect(creating).rejects.toThrow("changed my mind");
  await expect(roost.hosts.list({ signal: abort.signal })).rejects.toThrow("changed my mind");
});

test("a connection that breaks before the answer is connection_lost", async () => {
  api.handlers.http.listHosts = ({ request }) => void request.socket.destroy();
  expect(await failureOf(roost.hosts.list())).toMatchObject({ code: "connection_lost", retryable: true });
});

test("every endpoint of the contract is in the fake", () => {
  const reachable = new Set([...Object.keys(api.handlers.http), ...Object.keys(api.handlers.socket), "watchFiles"]);
  expect(Object.keys(endpoints).filter((id) => !reachable.has(id))).toEqual([]);
});

test("the fake refuses what the contract refuses", async () => {
  const { id } = await roost.sandboxes.create();
  expect(await failureOf(roost.sandbox(id).exec(""))).toMatchObject({ code: "request_invalid" });
  api.handlers.http.pingSandbox = () => {
    throw new FakeError("sandbox_wrong_state", "it is paused");
  };
  expect(await failureOf(roost.sandboxes.ping(id))).toMatchObject({ code: "sandbox_wrong_state", status: 409 });
});
