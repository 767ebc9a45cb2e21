import { SandboxState } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { execStreamServerSchema, webSocketMessageBytesMax } from "@roost/contract";
import { poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, beforeAll, beforeEach, expect, test } from "vitest";

import { World, type TestSocket } from "../../testing/world.ts";

let world: World;
let id: string;
beforeAll(async () => {
  world = await World.start();
  ({ id } = await world.createSandbox());
}, 60_000);
afterAll(async () => world[Symbol.asyncDispose]());
beforeEach(() => {
  world.guest.misbehaviour.start = undefined;
});

const open = (path: string, options = {}) => world.socket(`/v1/sandboxes/${id}/${path}`, options).open();
const shell = (script: string, more: object = {}) => ({ type: "start", cmd: "sh", args: ["-c", script], ...more });
const nothingRuns = () =>
  poll({ what: "the end of all processes", timeoutMs: 30_000, intervalMs: 5 }, () =>
    world.guest.runningPids.length === 0 ? true : undefined,
  );

async function stream(start: object): Promise<TestSocket> {
  const socket = await open("exec/stream");
  socket.send(start);
  return socket;
}

test("output comes as it is written, then the exit, then the close", async () => {
  const socket = await stream(shell("echo one; read x; echo $x; echo two >&2; exit 5", { stdin: true }));
  expect(await socket.until("start")).toMatchObject({ tag: expect.stringMatching(/^proc-/), pid: expect.any(Number) });
  await expect.poll(() => socket.text("stdout")).toBe("one\n");
  socket.send({ type: "stdin", data: "typed\n" });
  expect(await socket.until("exit")).toEqual({ type: "exit", exit_code: 5 });
  expect([socket.text("stdout"), socket.text("stderr")]).toEqual(["one\ntyped\n", "two\n"]);
  expect(await socket.ended).toEqual({ code: 1000 });
  for (const message of socket.messages) execStreamServerSchema.parse(message);
});

test("text is never split inside a character, bytes are exact as base64", async () => {
  const script = "i=0; while [ $i -lt 3000 ]; do printf 'aüé🐔'; i=$((i+1)); done";
  const text = await stream(shell(script));
  await text.until("exit");
  expect(text.text("stdout")).toBe("aüé🐔".repeat(3000));
  const broken = await stream(shell("printf '\\360\\237'; sleep 0.05; printf '\\220\\224\\377'"));
  await broken.until("exit");
  expect(broken.text("stdout")).toBe("🐔\u{FFFD}");
  const exact = await stream(shell("printf '\\377\\000\\001'", { encoding: "base64" }));
  await exact.until("exit");
  expect(Buffer.from(exact.text("stdout"), "base64")).toEqual(Buffer.from([255, 0, 1]));
});

test("stop is heard although the command reads no input", async () => {
  const socket = await stream(shell("sleep 60", { stdin: true }));
  await socket.until("start");
  for (let index = 0; index < 8; index += 1) socket.send({ type: "stdin", data: "x".repeat(64 * 1024) });
  socket.send({ type: "stop" });
  expect(await socket.until("exit")).toMatchObject({ exit_code: 143 });
});

test("a command that ignores SIGTERM can be killed", async () => {
  const socket = await stream(shell('trap "" TERM; echo ready; while :; do sleep 0.05; done'));
  await socket.until("stdout");
  socket.send({ type: "stop" });
  socket.send({ type: "signal", signal: "SIGKILL" });
  expect(await socket.until("exit")).toMatchObject({ exit_code: 137 });
});

test("a deadline kills, and says so", async () => {
  const socket = await stream(shell("sleep 60 & sleep 60", { timeout_sec: 1 }));
  expect(await socket.until("error")).toMatchObject({ code: "exec_timeout" });
  await nothingRuns();
});

test("when the client goes away a command without a tag ends, one with a tag lives on", { timeout: 30_000 }, async () => {
  const nameless = await stream(shell("sleep 60"));
  await nameless.until("start");
  nameless.raw.terminate();
  await nothingRuns();
  const named = await stream(shell("for i in $(seq 600); do echo line; sleep 0.1; done", { tag: "come-back" }));
  await named.until("start");
  named.raw.terminate();
  await named.ended;
  const attached = await open("processes/come-back/stream");
  expect(await attached.until("start")).toMatchObject({ tag: "come-back" });
  await attached.until("stdout");
  await world.request("DELETE", `/v1/sandboxes/${id}/processes/come-back`);
  expect(await attached.until("exit")).toMatchObject({ exit_code: 137 });
  expect(await attached.ended).toEqual({ code: 1000 });
});

test("attaching by pid tells the tag; to nothing, that there is nothing", async () => {
  const started = await world.exec(id, { cmd: "sleep", args: ["60"], background: true, tag: "by-pid" });
  const { pid } = started.body as unknown as { pid: number };
  const socket = await open(`processes/${pid}/stream?encoding=base64`);
  expect(await socket.until("start")).toEqual({ type: "start", pid, tag: "by-pid" });
  socket.raw.close();
  await socket.ended;
  expect(world.guest.runningPids).toContain(pid);
  await world.request("DELETE", `/v1/sandboxes/${id}/processes/${pid}`);
  const missing = await open("processes/nobody/stream");
  expect(await missing.until("error")).toMatchObject({ code: "process_not_found" });
  expect(await missing.ended).toEqual({ code: 1008 });
});

test("a watch tells that it is in place, then what changes", async () => {
  const socket = await open("files/watch?path=/&recursive=true");
  await socket.until("start");
  expect(await socket.until("event")).toEqual({ type: "event", event: "create", name: "seen" });
  socket.raw.close();
  await socket.ended;
});

test("states that do not allow it come as a message after the upgrade", async () => {
  const other = await world.createSandbox();
  world.host.change(other.id, SandboxState.FAILED, { failureReason: "gone" });
  await expect
    .poll(async () => ((await (await world.request("GET", `/v1/sandboxes/${other.id}`)).json()) as { state: string }).state)
    .toBe("failed");
  for (const [path, isPty] of [
    ["exec/stream", false],
    ["pty", true],
    ["files/watch?path=/", false],
    ["processes/1/stream", false],
  ] as const) {
    const socket = await world.socket(`/v1/sandboxes/${other.id}/${path}`).open();
    const message = await socket.until("error");
    expect(message).toMatchObject({ code: "sandbox_wrong_state", ...(isPty ? { fatal: true } : {}) });
    expect(await socket.ended).toEqual({ code: 1008 });
  }
});

test("the end of the VM is told to every socket", async () => {
  const other = await world.createSandbox();
  const socket = await world.socket(`/v1/sandboxes/${other.id}/exec/stream`).open();
  socket.send(shell("sleep 60"));
  await socket.until("start");
  world.host.change(other.id, SandboxState.FAILED, { failureReason: "the VM ended" });
  expect(await socket.until("error")).toMatchObject({ code: "guest_unreachable" });
  world.guest.killAll();
  expect(await socket.ended).toEqual({ code: 1011 });
});

test("origins: none and the own one are fine, others only when allowed", async () => {
  const { host } = new URL(world.url);
  (await open("exec/stream", { headers: { origin: `http://${host}` } })).raw.close();
  for (const origin of ["https://evil.example", "null", `http://${host}.evil.example`, "http://127.0.0.1:1", `ftp://${host}`]) {
    const socket = world.socket(`/v1/sandboxes/${id}/exec/stream`, { headers: { origin } });
    expect(await socket.ended, origin).toMatchObject({ status: 403, body: expect.stringContaining("origin_forbidden") });
  }
  await using open2 = await World.start({ options: { allowedOrigins: ["https://console.example"] } });
  const sandbox = await open2.createSandbox();
  const socket = await open2.socket(`/v1/sandboxes/${sandbox.id}/exec/stream`, { headers: { origin: "https://console.example" } }).open();
  socket.raw.terminate();
});

test.each<[string, unknown]>([
  ["no JSON", "{"],
  ["JSON that is no message", "[1]"],
  ["an unknown type", { type: "dance" }],
  ["a field there is not", { type: "start", cmd: "true", bogus: 1 }],
  ["a wrong first message", { type: "stop" }],
  ["a command with NUL", { type: "start", cmd: "a\0b" }],
  ["an endless timeout", { type: "start", cmd: "true", timeout_sec: 1e9 }],
  ["prototype pollution", '{"__proto__":{"type":"start"}}'],
  ["binary", Buffer.from([1, 2, 3])],
  ["invalid UTF-8 in text is a protocol error of WebSocket itself", ""],
])("hostile first message: %s", async (_what, message) => {
  const socket = await open("exec/stream");
  socket.send(message);
  expect(await socket.until("error")).toMatchObject({ code: "request_invalid" });
  expect(await socket.ended).toEqual({ code: 1008 });
});

test("hostile later messages end the command too", async () => {
  for (const message of [shell("true"), { type: "stdin", data: "x" }, "garbage", Buffer.alloc(3)]) {
    const socket = await stream(shell("sleep 60"));
    await socket.until("start");
    socket.send(message);
    expect(await socket.until("error")).toMatchObject({ code: "request_invalid" });
    await socket.ended;
  }
  await nothingRuns();
});

test("a message that is too large closes the socket, and ends the command", async () => {
  const socket = await stream(shell("sleep 60", { stdin: true }));
  await socket.until("start");
  socket.send({ type: "stdin", data: "x".repeat(webSocketMessageBytesMax) });
  expect(await socket.ended).toEqual({ code: 1009 });
  await nothingRuns();
});

test("sockets that only send take nothing", async () => {
  const socket = await open("files/watch?path=/");
  await socket.until("start");
  socket.send({ type: "start" });
  expect(await socket.until("error")).toMatchObject({ code: "request_invalid" });
});

test("upgrades elsewhere, and to other things, are refused", async () => {
  expect(await world.socket("/v1/sandboxes").ended).toMatchObject({ status: 404, body: expect.stringContaining("route_not_found") });
  expect(await world.socket("/v1/sandboxes/%zz/pty").ended).toMatchObject({ status: 404 });
  const h2c = await fetch(`${world.url}/health`);
  expect(h2c.status).toBe(204);
});

test("random frames never harm the server", { timeout: 60_000 }, async () => {
  const random = new SeededRandom();
  for (let round = 0; round < 40; round += 1) {
    const socket = await open(random.pick(["exec/stream", "pty", "files/watch?path=/", "processes/1/stream"]));
    for (let frame = 0; frame < 3; frame += 1) {
      const text = Buffer.from(random.bytes(random.integer(200))).toString("latin1");
      socket.send(random.pick([text, JSON.stringify({ type: text }), Buffer.from(text), JSON.stringify({ type: "start", cmd: text })]));
    }
    if (random.integer(2) === 0) socket.raw.terminate();
    await Promise.race([socket.ended, socket.until("error").catch(() => undefined)]);
    socket.raw.terminate();
  }
  await nothingRuns();
  expect((await fetch(`${world.url}/health`)).status, `SEED=${random.seed} replays this`).toBe(204);
});
