import { gzipSync } from "node:zlib";

import { create, toBinary } from "@bufbuild/protobuf";
import { StartRequestSchema } from "@roost/contract/gen/process/process_pb.js";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { startTestAgent, type TestAgent } from "../testing/test-agent.ts";

let agent: TestAgent;
beforeAll(async () => {
  agent = await startTestAgent();
});
afterAll(async () => agent[Symbol.asyncDispose]());

function envelope(payload: Uint8Array, flags = 0): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(payload.length, 1);
  return Buffer.concat([head, payload]);
}

async function post(method: string, contentType: string, body: Uint8Array, headers: Record<string, string> = {}) {
  const response = await fetch(`${agent.url}/process.Process/${method}`, {
    method: "POST",
    headers: { "content-type": contentType, ...headers },
    body: new Uint8Array(body),
  });
  return { status: response.status, contentType: response.headers.get("content-type"), body: Buffer.from(await response.arrayBuffer()) };
}

/** Naming an encoding, even none, leads past the shortcut to the library's handler. */
const byLibrary = { "connect-content-encoding": "identity" };

const messages = {
  "output and exit code": { process: { cmd: "/bin/sh", args: ["-c", "printf 'a\\377b'; exit 3"] }, stdin: false },
  success: { process: { cmd: "true" }, stdin: false },
  "a signal": { process: { cmd: "/bin/sh", args: ["-c", "kill -9 $$"] }, stdin: false },
  "a command that does not exist": { process: { cmd: "no-such" } },
  "no process": {},
  "a cwd that does not exist": { process: { cmd: "true", cwd: "/no/such" } },
};

/** Without pids, which differ. */
const comparable = (body: Buffer) => body.toString("latin1").replace(/"pid":\d+/, '"pid":0');

describe.each(Object.entries(messages))("%s", (_what, message) => {
  test("JSON: the shortcut and the library answer the same bytes", async () => {
    const body = envelope(Buffer.from(JSON.stringify(message)));
    const short = await post("Start", "application/connect+json", body);
    const long = await post("Start", "application/connect+json", body, byLibrary);
    expect({ ...short, body: comparable(short.body).replace(/^[^{]*/, "") }).toEqual({
      ...long,
      body: comparable(long.body).replace(/^[^{]*/, ""),
    });
  });

  test("binary: they answer the same but for the pid", async () => {
    const body = envelope(toBinary(StartRequestSchema, create(StartRequestSchema, message)));
    const short = await post("Start", "application/connect+proto", body);
    const long = await post("Start", "application/connect+proto", body, byLibrary);
    expect([short.status, short.contentType, short.body.length]).toEqual([long.status, long.contentType, long.body.length]);
    const afterStart = (bytes: Buffer) => bytes.subarray(5 + bytes.readUInt32BE(1)).toString("hex");
    expect(afterStart(short.body)).toBe(afterStart(long.body));
  });
});

test("a compressed request goes through the library", async () => {
  const body = envelope(gzipSync(JSON.stringify(messages["output and exit code"])), 1);
  const answer = await post("Start", "application/connect+json", body, { "connect-content-encoding": "gzip" });
  expect(answer.body.toString("latin1")).toContain('"exitCode":3');
});

test.each(["/process.Process/Start", "/process.Process/Connect"])("%s refuses another method and another type", async (path) => {
  expect((await fetch(agent.url + path)).status).toBe(405);
  expect((await fetch(agent.url + path, { headers: { "content-type": "application/connect+json" } })).status).toBe(405);
  expect((await fetch(agent.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: "{}" })).status).toBe(415);
});

test.each([
  ["nothing", Buffer.alloc(0)],
  ["half a head", Buffer.alloc(3)],
  ["two messages", Buffer.concat([envelope(Buffer.from("{}")), envelope(Buffer.from("{}"))])],
  ["less than announced", envelope(Buffer.from("{}")).subarray(0, 6)],
  ["a compressed message without a named encoding", envelope(gzipSync("{}"), 1)],
  ["no JSON", envelope(Buffer.from("{"))],
  ["JSON of another shape", envelope(Buffer.from('{"process":5}'))],
])("%s is invalid_argument at the end of the stream", async (_what, body) => {
  const answer = await post("Start", "application/connect+json", body);
  expect(answer.status).toBe(200);
  expect(answer.body.readUInt8(0)).toBe(2);
  expect(JSON.parse(answer.body.subarray(5).toString())).toMatchObject({ error: { code: "invalid_argument" } });
});

test("a message above the limit is resource_exhausted", async () => {
  const answer = await post("Start", "application/connect+json", envelope(Buffer.alloc(5 * 1024 * 1024, 32)));
  expect(answer.body.toString("latin1")).toContain("resource_exhausted");
});

test.each(["x", "-1", "1.5", "99999999999"])("the deadline %j is invalid", async (deadline) => {
  const body = envelope(Buffer.from('{"process":{"cmd":"true"}}'));
  const answer = await post("Start", "application/connect+json", body, { "connect-timeout-ms": deadline });
  expect(answer.body.toString("latin1")).toContain("invalid_argument");
});

test("a deadline longer than a timer can hold kills nothing", async () => {
  const body = envelope(Buffer.from('{"process":{"cmd":"/bin/sh","args":["-c","sleep 0.3; exit 5"]},"stdin":false}'));
  const answer = await post("Start", "application/connect+json", body, { "connect-timeout-ms": "9999999999" });
  expect(answer.body.toString("latin1")).toContain('"exitCode":5');
});

test("nothing of ended streams stays open", async () => {
  await poll({ what: "an empty list", timeoutMs: 30_000 }, async () =>
    (await agent.processes.list({})).processes.length === 0 ? true : undefined,
  );
});
