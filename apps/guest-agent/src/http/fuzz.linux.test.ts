import { connect } from "node:net";
import { gzipSync } from "node:zlib";

import { MiB, poll } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { startAgentChild, type AgentChild } from "../testing/agent-child.ts";
import { collect } from "../testing/run-process.ts";

/**
 * Everything the agent decodes, fed with what no client of ours sends. It may refuse or cut the connection; it must
 * stay up, keep its memory and give back its descriptors.
 */
let agent: AgentChild;
let descriptorsBefore: number;
let pidBefore: number;
const random = new SeededRandom();

/** Heap of Node, a few messages of the largest size in flight, and room for a lazy garbage collector. */
const residentBytesMax = 400 * MiB;

beforeAll(async () => {
  agent = await startAgentChild();
  pidBefore = agent.pid;
  await collect(agent.processes.start({ process: { cmd: "true" }, stdin: false }));
  descriptorsBefore = agent.descriptors();
});

afterAll(async () => {
  const hint = `SEED=${random.seed} replays this`;
  try {
    expect(agent.exitCode(), `${hint}; log: ${agent.log().slice(-2_000)}`).toBeUndefined();
    expect(agent.pid).toBe(pidBefore);
    const outcome = await collect(agent.processes.start({ process: { cmd: "echo", args: ["still here"] }, stdin: false }));
    expect(outcome.stdout, hint).toBe("still here\n");
    expect(agent.residentBytes(), hint).toBeLessThan(residentBytesMax);
    expect(agent.log(), hint).not.toContain('"level":"error"');
    // Connections kept alive by these tests' own client are still open; nothing else may be.
    await poll({ what: `descriptors back to ${descriptorsBefore} (${hint})`, timeoutMs: 30_000, intervalMs: 100 }, () =>
      agent.descriptors() <= descriptorsBefore + 8 ? true : undefined,
    );
  } finally {
    await agent[Symbol.asyncDispose]();
  }
});

const methods = ["Start", "Connect", "List", "Update", "SendInput", "StreamInput", "SendSignal", "CloseStdin"] as const;
const unaryTypes = ["application/json", "application/proto"] as const;
const streamTypes = [
  "application/connect+json",
  "application/connect+proto",
  "application/grpc-web+proto",
  "application/grpc-web-text",
] as const;

function envelope(flags: number, length: number, payload: Uint8Array): Buffer {
  const head = Buffer.alloc(5);
  head.writeUInt8(flags, 0);
  head.writeUInt32BE(length >>> 0, 1);
  return Buffer.concat([head, payload]);
}

async function post(path: string, headers: Record<string, string>, body: Uint8Array): Promise<number> {
  const response = await fetch(agent.url + path, {
    method: "POST",
    headers,
    body: new Uint8Array(body),
    signal: AbortSignal.timeout(10_000),
  });
  await response.arrayBuffer();
  return response.status;
}

/** Writes raw bytes on a connection, maybe cuts it, and waits until it is over. */
async function raw(bytes: Uint8Array, cut: boolean): Promise<void> {
  await new Promise<void>((resolve) => {
    const socket = connect({ host: "127.0.0.1", port: agent.port });
    const deadline = setTimeout(() => socket.destroy(), 1_000);
    socket.on("error", () => undefined);
    socket.on("close", () => {
      clearTimeout(deadline);
      resolve();
    });
    socket.resume();
    socket.write(bytes, () => (cut ? socket.destroy() : socket.end()));
  });
}

/** JSON that looks like a request, with everything possibly wrong. */
function jsonValue(depth = 0): unknown {
  const leaf = () =>
    random.pick([
      null,
      true,
      -1,
      0,
      1.5,
      2 ** 53,
      "",
      "x",
      "\0",
      "SIGNAL_SIGKILL",
      "\ud800",
      "A".repeat(1_000),
      4_294_967_296,
      "NaN",
      "1e400",
    ] as [unknown, ...unknown[]]);
  if (depth > 4 || random.integer(3) === 0) return leaf();
  if (random.integer(4) === 0) return Array.from({ length: random.integer(4) }, () => jsonValue(depth + 1));
  const names = [
    "process",
    "selector",
    "pid",
    "tag",
    "cmd",
    "args",
    "envs",
    "cwd",
    "pty",
    "size",
    "cols",
    "rows",
    "stdin",
    "input",
    "start",
    "data",
    "signal",
    "__proto__",
    "event",
  ] as const;
  return Object.fromEntries(Array.from({ length: random.integer(5) }, () => [random.pick([...names]), jsonValue(depth + 1)]));
}

describe("Connect messages", () => {
  test("random bytes for every method and codec are refused or answered", async () => {
    for (const method of methods) {
      for (const type of [...unaryTypes, ...streamTypes]) {
        for (let round = 0; round < 6; round += 1) {
          const status = await post(`/process.Process/${method}`, { "content-type": type }, random.bytes(random.integer(300)));
          expect(status).toBeGreaterThanOrEqual(200);
          expect(status, `${method} ${type}`).toBeLessThan(600);
        }
      }
    }
  });

  test("JSON of the wrong shape", async () => {
    for (let round = 0; round < 150; round += 1) {
      const method = random.pick([...methods]);
      const body = Buffer.from(JSON.stringify(jsonValue()));
      await post(`/process.Process/${method}`, { "content-type": "application/json" }, body);
      await post(`/process.Process/${method}`, { "content-type": "application/connect+json" }, envelope(0, body.length, body));
    }
  });

  test("deeply nested JSON", async () => {
    for (const text of ["[".repeat(200_000), '{"process":'.repeat(100_000)]) {
      const body = Buffer.from(text);
      await post("/process.Process/List", { "content-type": "application/json" }, body);
      await post("/process.Process/Start", { "content-type": "application/connect+json" }, envelope(0, body.length, body));
    }
  });

  test("envelopes that lie about their length, or have flags nobody knows", async () => {
    const payload = Buffer.from('{"process":{"cmd":"true"}}');
    for (const length of [0, 1, payload.length - 1, payload.length + 1, 5_000_000, 2 ** 31, 2 ** 32 - 1]) {
      for (const flags of [0, 1, 2, 3, 0x80, 0xff, random.integer(256)]) {
        for (const type of streamTypes) {
          const status = await post(
            `/process.Process/${random.pick(["Start", "StreamInput"])}`,
            { "content-type": type },
            envelope(flags, length, payload),
          );
          expect(status).toBeLessThan(600);
        }
      }
    }
  });

  test("binary messages with bits flipped", async () => {
    // StartRequest { process { cmd: "true", args: ["a"], envs { A: "b" } }, tag: "t" }
    const message = Buffer.from("0a120a047472756512016122050a014112016222 0174".replaceAll(" ", "1a"), "hex");
    for (let round = 0; round < 200; round += 1) {
      const bytes = Uint8Array.from(message);
      for (let flip = 0; flip <= random.integer(4); flip += 1) bytes[random.integer(bytes.length)] = random.integer(256);
      await post(
        "/process.Process/Start",
        { "content-type": "application/connect+proto", "connect-timeout-ms": "2000" },
        envelope(0, bytes.length, bytes),
      );
    }
  });

  test("compression that is damaged, unknown, or a bomb", async () => {
    const bomb = gzipSync(Buffer.alloc(300 * MiB));
    const good = gzipSync('{"process":{"cmd":"true"}}');
    const headers = { "content-type": "application/connect+json", "connect-content-encoding": "gzip" };
    for (const payload of [bomb, random.bytes(500), good.subarray(0, good.length - 4), good.subarray(0, 5), new Uint8Array()]) {
      await post("/process.Process/Start", headers, envelope(1, payload.length, payload));
      const status = await post("/process.Process/List", { "content-type": "application/json", "content-encoding": "gzip" }, payload);
      expect(status).toBeGreaterThanOrEqual(payload.length === 0 ? 200 : 400);
    }
    expect(
      await post("/process.Process/List", { "content-type": "application/json", "content-encoding": "zstd" }, good),
    ).toBeGreaterThanOrEqual(400);
    expect(
      await post("/process.Process/Start", { ...headers, "connect-content-encoding": "x" }, envelope(1, good.length, good)),
    ).toBeLessThan(600);
  });

  test("messages larger than the limit", async () => {
    const large = Buffer.alloc(6 * MiB, 32);
    await post("/process.Process/List", { "content-type": "application/json" }, large).catch(() => undefined); // it may cut the upload
    await post("/process.Process/Start", { "content-type": "application/connect+json" }, envelope(0, large.length, large)).catch(
      () => undefined,
    );
  });

  test.each(["-1", "x", "99999999999999999999", "1e3", "4294967296", " ", "0"])("the deadline %j", async (deadline) => {
    const body = Buffer.from('{"process":{"cmd":"true"}}');
    const headers = { "content-type": "application/connect+json", "connect-timeout-ms": deadline, "keepalive-ping-interval": deadline };
    expect(await post("/process.Process/Start", headers, envelope(0, body.length, body))).toBeLessThan(600);
  });
});

describe("HTTP", () => {
  test("bytes that are no HTTP", async () => {
    for (let round = 0; round < 60; round += 1) await raw(random.bytes(1 + random.integer(2_000)), random.integer(2) === 0);
  });

  test("requests that are nearly HTTP, cut anywhere", async () => {
    const requests = [
      "GET /health HTTP/1.1\r\nHost: x\r\n\r\n",
      "POST /init HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{",
      "POST /init HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFF\r\nx\r\n",
      "POST /init HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n{}{}{}",
      "POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nContent-Length: 100000\r\n\r\n\0\0\0\0\0",
      "POST /process.Process/List HTTP/1.1\r\nHost: a b c\r\nContent-Type: application/json\r\n\r\n",
      "GET http://[::1/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET //metrics?%zz HTTP/1.1\r\nHost: \u00e9\r\n\r\n",
      "GET /files?path=%00 HTTP/1.1\r\nHost: x\r\n\r\n",
      `GET /health HTTP/1.1\r\nHost: x\r\nX: ${"y".repeat(100_000)}\r\n\r\n`,
      `GET /health HTTP/1.1\r\nHost: x\r\n${"A: b\r\n".repeat(5_000)}\r\n`,
      "OPTIONS * HTTP/1.1\r\nHost: x\r\nAccess-Control-Request-Headers: \u00ff\r\n\r\n",
      "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
      "CONNECT example:80 HTTP/1.1\r\nHost: x\r\n\r\n",
      "GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
      "GET /health HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n\r\n",
      "POST /process.Process/List HTTP/1.0\r\n\r\n",
    ];
    for (const request of requests) {
      const bytes = Buffer.from(request, "latin1");
      await raw(bytes, false);
      for (let round = 0; round < 4; round += 1) await raw(bytes.subarray(0, 1 + random.integer(bytes.length)), random.integer(2) === 0);
    }
  });

  test("streams that are left at once, by the hundred", async () => {
    const body = Buffer.from('{"process":{"cmd":"/bin/sh","args":["-c","head -c 300000 /dev/zero"]},"stdin":false}');
    const head = `POST /process.Process/Start HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+json\r\nContent-Length: ${body.length + 5}\r\n\r\n`;
    const bytes = Buffer.concat([Buffer.from(head), envelope(0, body.length, body)]);
    for (let round = 0; round < 10; round += 1) await Promise.all(Array.from({ length: 10 }, async () => raw(bytes, true)));
    await poll({ what: "their processes over", timeoutMs: 30_000, intervalMs: 50 }, async () =>
      (await agent.processes.list({})).processes.length === 0 ? true : undefined,
    );
  });
});

describe("/init", () => {
  test("anything", async () => {
    for (let round = 0; round < 150; round += 1) {
      // Never a valid host name, machine id or timestamp: this agent would give them to the machine the test runs on.
      const value = {
        accessToken: 5,
        envVars: jsonValue(),
        timestamp: jsonValue(),
        entropy: jsonValue(),
        hostname: "-Not Valid-",
        sandboxId: jsonValue(),
      };
      for (const name of ["accessToken", "hostname", "envVars", "timestamp"] as const)
        if (random.integer(2) === 0) Reflect.deleteProperty(value, name);
      const status = await post("/init", { "content-type": "application/json" }, Buffer.from(JSON.stringify(value)));
      expect([204, 400], `SEED=${random.seed}: ${JSON.stringify(value)}`).toContain(status);
      await post("/init", {}, random.bytes(random.integer(200)));
    }
  });
});
