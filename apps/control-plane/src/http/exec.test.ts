import { execResultSchema, execStartedSchema, processListSchema } from "@roost/contract";
import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll } from "@roost/kit";
import { afterAll, beforeAll, expect, test } from "vitest";

import { World } from "../testing/world.ts";

let world: World;
let id: string;
beforeAll(async () => {
  world = await World.start();
  ({ id } = await world.createSandbox());
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());

const sh = (script: string, more: object = {}) => world.exec(id, { cmd: "sh", args: ["-c", script], ...more });
const nothingRuns = () =>
  poll({ what: "the end of all processes", timeoutMs: 30_000, intervalMs: 5 }, () =>
    world.guest.runningPids.length === 0 ? true : undefined,
  );

test("a command runs to its end", async () => {
  const { status, body } = await sh('echo out; echo err >&2; echo "$A"; exit 7', { envs: { A: "ü b" } });
  expect(status).toBe(200);
  expect(execResultSchema.parse(body)).toMatchObject({
    sandbox_id: id,
    cmd: "sh",
    stdout: "out\nü b\n",
    stderr: "err\n",
    exit_code: 7,
    encoding: "utf-8",
  });
});

test("a signal shows as 128 and its number", async () => {
  expect((await sh("kill -9 $$")).body).toMatchObject({ exit_code: 137 });
});

test("bytes that are not UTF-8 come as base64, both streams", async () => {
  const { body } = await sh("printf '\\377\\000'; printf err >&2");
  expect(body).toMatchObject({
    encoding: "base64",
    stdout: Buffer.from([255, 0]).toString("base64"),
    stderr: Buffer.from("err").toString("base64"),
  });
});

test("standard input is empty unless given", async () => {
  expect((await world.exec(id, { cmd: "cat" })).body).toMatchObject({ stdout: "", exit_code: 0 });
  const text = "line ü\n".repeat(30_000);
  const { body } = await world.exec(id, { cmd: "cat", stdin: text });
  expect(body.stdout === text).toBe(true);
});

test("a command that does not read its input still ends", async () => {
  expect((await world.exec(id, { cmd: "true", stdin: "x".repeat(900_000) })).body).toMatchObject({ exit_code: 0 });
});

test("a program there is not is told as such", async () => {
  const { status, body } = await world.exec(id, { cmd: "no-such-program" });
  expect(status).toBe(400);
  expect(body).toMatchObject({ error: { code: "request_invalid", message: expect.stringContaining("command not found") } });
});

test("a command that takes too long is killed with everything it started", async () => {
  const { status, body } = await sh("sleep 60 & sleep 60", { timeout_sec: 1 });
  expect(status).toBe(504);
  expect(body).toMatchObject({ error: { code: "exec_timeout" } });
  await nothingRuns();
});

test("a command that prints more than is taken is killed", async () => {
  const { status, body } = await sh("yes");
  expect(status).toBe(413);
  expect(body).toMatchObject({ error: { code: "output_too_large" } });
  await nothingRuns();
});

test("when the caller hangs up the command is killed", async () => {
  const gone = new AbortController();
  const asking = fetch(`${world.url}/v1/sandboxes/${id}/exec`, {
    method: "POST",
    headers: { "x-api-key": world.key, "content-type": "application/json" },
    body: JSON.stringify({ cmd: "sleep", args: ["60"] }),
    signal: gone.signal,
  });
  asking.catch(() => undefined);
  await poll({ what: "the command", timeoutMs: 30_000, intervalMs: 5 }, () => world.guest.runningPids[0]);
  gone.abort();
  await nothingRuns();
});

test("a background command lives on, has a name, is listed and can be ended", async () => {
  const { status, body } = await sh("while :; do echo filling the pipe; sleep 0.01; done", { background: true });
  expect(status).toBe(202);
  const started = execStartedSchema.parse(body);
  expect(started.tag).toMatch(/^proc-[0-9a-f]{8}$/);
  const list = async () => processListSchema.parse(await (await world.request("GET", `/v1/sandboxes/${id}/processes`)).json()).processes;
  expect(await list()).toMatchObject([{ pid: started.pid, tag: started.tag, cmd: "sh" }]);
  const signalled = await world.request("DELETE", `/v1/sandboxes/${id}/processes/${started.tag}?signal=SIGTERM`);
  expect(signalled.status).toBe(204);
  await nothingRuns();
  expect(await list()).toEqual([]);
  const again = await world.request("DELETE", `/v1/sandboxes/${id}/processes/${started.pid}`);
  expect([again.status, await again.json()]).toEqual([
    404,
    { error: { code: "process_not_found", message: `process ${started.pid} is not running` } },
  ]);
});

test("a tag is unique among running processes, and may hold a slash", async () => {
  const tag = "build/1 ü";
  expect((await world.exec(id, { cmd: "sleep", args: ["60"], background: true, tag })).status).toBe(202);
  const second = await world.exec(id, { cmd: "sleep", args: ["60"], background: true, tag });
  expect(second).toMatchObject({ status: 409, body: { error: { code: "tag_taken" } } });
  expect((await world.request("DELETE", `/v1/sandboxes/${id}/processes/${encodeURIComponent(tag)}`)).status).toBe(204);
  await nothingRuns();
});

test.each<[string, () => AsyncIterable<object>, string]>([
  ["nothing", async function* () {}, "guest_error"],
  [
    "an end without a start",
    async function* () {
      yield { event: { event: { case: "data", value: { output: { case: "stdout", value: Buffer.from("x") } } } } };
    },
    "guest_error",
  ],
  [
    "a start without an end",
    async function* () {
      yield { event: { event: { case: "start", value: { pid: 1 } } } };
    },
    "guest_error",
  ],
  [
    "an empty event",
    async function* () {
      yield {};
    },
    "guest_error",
  ],
  [
    "an error with a novel in it",
    async function* () {
      yield* [];
      throw new Error(`\u{1b}[31m${"x".repeat(100_000)}`);
    },
    "guest_error",
  ],
  [
    "too large a message",
    async function* () {
      yield { event: { event: { case: "start", value: { pid: 1 } } } };
      yield { event: { event: { case: "data", value: { output: { case: "stdout", value: new Uint8Array(65 * 1024 * 1024) } } } } };
    },
    "guest_error",
  ],
])("a guest that sends %s is an error of the guest", async (_what, start, code) => {
  world.guest.misbehaviour.start = start;
  try {
    const { status, body } = await world.exec(id, { cmd: "x" });
    const { error } = body as unknown as { error: { code: string; message: string } };
    expect([status, error.code]).toEqual([502, code]);
    expect(error.message.length).toBeLessThan(700);
    expect(error.message).not.toContain("\u{1b}");
  } finally {
    world.guest.misbehaviour.start = undefined;
  }
});

test("the end of the VM ends what runs in it", async () => {
  const other = await world.createSandbox();
  const running = world.exec(other.id, { cmd: "sleep", args: ["60"] });
  await poll({ what: "the command", timeoutMs: 30_000, intervalMs: 5 }, () => world.guest.runningPids[0]);
  world.host.change(other.id, SandboxState.FAILED, { failureReason: "the VM ended" });
  expect(await running).toMatchObject({ status: 502, body: { error: { code: "guest_unreachable" } } });
  world.guest.killAll();
  expect(await world.exec(other.id, { cmd: "true" })).toMatchObject({ status: 409, body: { error: { code: "sandbox_wrong_state" } } });
});

test("a guest agent that is gone is 502, and works again when it is back", async () => {
  world.guest.accessToken = "another one";
  expect(await world.exec(id, { cmd: "true" })).toMatchObject({ status: 502, body: { error: { code: "guest_error" } } });
  world.guest.accessToken = undefined;
  expect(await world.exec(id, { cmd: "true" })).toMatchObject({ status: 200 });
});

test("the access token goes with every call", async () => {
  world.guest.accessToken = world.host.sandboxes.get(id)?.spec?.accessToken;
  expect(world.guest.accessToken).toMatch(/^[0-9a-f]{64}$/);
  expect(await world.exec(id, { cmd: "cat", stdin: "x" })).toMatchObject({ status: 200, body: { stdout: "x" } });
  world.guest.accessToken = undefined;
});

test("commands, files and looks after each other share connections: new ones are dear for a guest", async () => {
  const { id: other } = await world.createSandbox();
  const before = world.host.tunnelCount;
  for (let round = 0; round < 10; round += 1) {
    expect((await world.exec(other, { cmd: "sh", args: ["-c", "echo x"] })).status).toBe(200);
    for (const [method, path, body] of [
      ["PUT", `files?path=/shared`, "data"],
      ["GET", `files?path=/shared`, undefined],
      ["GET", "processes", undefined],
    ] as const) {
      const answer = await world.request(method, `/v1/sandboxes/${other}/${path}`, body);
      expect(answer.status).toBe(200);
      await answer.text();
    }
  }
  expect(world.host.tunnelCount - before).toBeLessThanOrEqual(3);
});
