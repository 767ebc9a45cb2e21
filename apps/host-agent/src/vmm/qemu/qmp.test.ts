import { mkdtemp, rm } from "node:fs/promises";
import { createServer, type Server, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { DeadlineError } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

import { QmpClient, QmpConnectionError, QmpError, type QmpEvent } from "./qmp.ts";

const greeting = '{"QMP": {"version": {}, "capabilities": []}}\r\n';

let folder: string;
let server: Server | undefined;
const sockets: Socket[] = [];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), "roost-qmp-"));
});

afterEach(async () => {
  for (const socket of sockets.splice(0)) socket.destroy();
  await new Promise<void>((resolve) => (server === undefined ? resolve() : server.close(() => resolve())));
  server = undefined;
  await rm(folder, { recursive: true, force: true });
});

/** A QMP peer that a test scripts: `answer` gets each command and returns what to send. */
async function listen(first: string | Buffer, answer: (command: { execute: string; id: number }) => string | Buffer | undefined) {
  const path = join(folder, "qmp.sock");
  server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined); // the client under test hangs up on us
    socket.write(first);
    socket.on("data", (chunk: Buffer) => {
      for (const line of chunk.toString("utf8").trim().split("\n")) {
        const reply = answer(JSON.parse(line) as { execute: string; id: number });
        if (reply !== undefined) socket.write(reply);
      }
    });
  });
  await new Promise<void>((resolve) => server?.listen(path, resolve));
  return path;
}

const ok = (command: { id: number }) => `{"return": {}, "id": ${command.id}}\r\n`;

test("matches answers to commands by id, whatever their order, and delivers events", async () => {
  const events: QmpEvent[] = [];
  let held: string | undefined;
  const path = await listen(greeting, (command) => {
    if (command.execute === "first") {
      held = `{"return": "one", "id": ${command.id}}\n`;
      return undefined;
    }
    if (command.execute === "second") return `{"event": "STOP", "timestamp": {}}\n{"return": "two", "id": ${command.id}}\n${held}`;
    return ok(command);
  });
  const client = await QmpClient.connect(path);
  client.onEvent = (event) => events.push(event);
  const answers = await Promise.all([client.execute("first"), client.execute("second")]);
  expect(answers).toEqual(["one", "two"]);
  expect(events).toEqual([{ event: "STOP", data: {} }]);
  client.close();
  await expect(client.execute("query-status")).rejects.toBeInstanceOf(QmpConnectionError);
});

test("an answer that comes in single bytes is one answer", async () => {
  const path = await listen(greeting, ok);
  const client = await QmpClient.connect(path);
  const answer = client.execute("query-status");
  expect(await answer).toEqual({});
  const slow = client.execute("slow");
  for (const byte of Buffer.from('{"event": "RESUME"}\n')) sockets[0]?.write(Buffer.of(byte));
  expect(await slow).toEqual({});
  client.close();
});

test("a refusal is a QmpError with QEMU's class", async () => {
  const path = await listen(greeting, (command) =>
    command.execute === "nonsense"
      ? `{"error": {"class": "CommandNotFound", "desc": "no such command"}, "id": ${command.id}}\n`
      : ok(command),
  );
  const client = await QmpClient.connect(path);
  const refusal = await client.execute("nonsense").catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(QmpError);
  expect(refusal).toMatchObject({ errorClass: "CommandNotFound", message: "QMP nonsense: no such command" });
  client.close();
});

test("a command without an answer ends at its deadline, and its late answer harms nobody", async () => {
  let late: string | undefined;
  const path = await listen(greeting, (command) => {
    if (command.execute === "mute") {
      late = ok(command);
      return undefined;
    }
    return (late ?? "") + ok(command);
  });
  const client = await QmpClient.connect(path);
  await expect(client.execute("mute", {}, { timeoutMs: 20 })).rejects.toThrow("QMP mute did not happen within 20 ms");
  expect(await client.execute("next")).toEqual({});
  client.close();
});

test.each([
  ["bytes that are not JSON", "\u0000\u0001garbage\n"],
  ["JSON that is not an object", "[1, 2]\n"],
  ["an answer in place of the greeting", '{"return": {}, "id": 1}\n'],
  ["a line without end", Buffer.alloc(600 * 1024, "a")],
])("%s ends the connection as a violation", async (_what, first) => {
  const path = await listen(first, ok);
  const refusal = await QmpClient.connect(path).catch((error: unknown) => error);
  expect(refusal).toBeInstanceOf(QmpConnectionError);
  expect(refusal).toMatchObject({ violation: true });
});

test("garbage in mid-connection fails what waits, and tells the owner", async () => {
  const path = await listen(greeting, (command) => (command.execute === "qmp_capabilities" ? ok(command) : "}{\n"));
  const client = await QmpClient.connect(path);
  await expect(client.execute("query-status")).rejects.toThrow("not QMP");
  expect((await client.closed).violation).toBe(true);
});

test("silence in place of a greeting ends at the deadline", async () => {
  const path = await listen("", ok);
  await expect(QmpClient.connect(path, { timeoutMs: 30 })).rejects.toThrow("no QMP greeting within 30 ms");
});

test("the end of the peer is told, and is no violation", async () => {
  const path = await listen(greeting, ok);
  const client = await QmpClient.connect(path);
  sockets[0]?.end();
  expect((await client.closed).violation).toBe(false);
});

test("random and mangled bytes end in an error of ours or in an answer, never in anything else", async () => {
  const random = new SeededRandom();
  const pieces = [
    greeting,
    '{"return": {}, "id": 1}',
    '{"event": 7}',
    '{"error": {"class": 1}, "id": 1}',
    "null",
    "\n",
    '"',
    "{}",
    "[]",
    "1e999",
    "\ufeff",
  ] as const;
  let answered = 0;
  for (let round = 0; round < 200; round += 1) {
    const mangled = Array.from({ length: 1 + random.integer(6) }, () =>
      random.integer(4) === 0
        ? Buffer.from(random.bytes(random.integer(40)))
        : Buffer.from(random.pick(pieces) + (random.integer(3) === 0 ? "" : "\n")),
    );
    const path = await listen(greeting, (command) =>
      command.execute === "qmp_capabilities" ? ok(command) : Buffer.concat([...mangled, Buffer.from("\n")]),
    );
    const client = await QmpClient.connect(path);
    const outcome = await client.execute("query-status", {}, { timeoutMs: 25 }).catch((error: unknown) => error);
    const context = `SEED=${random.seed} round ${round}: ${JSON.stringify(Buffer.concat(mangled).toString("latin1"))}`;
    const isExpected = outcome instanceof QmpConnectionError || outcome instanceof QmpError || outcome instanceof DeadlineError;
    if (!isExpected) answered += 1;
    expect(isExpected || !(outcome instanceof Error), context).toBe(true);
    client.close();
    for (const socket of sockets.splice(0)) socket.destroy();
    await new Promise<void>((resolve) => server?.close(() => resolve()));
  }
  expect(answered).toBeLessThan(200);
});
