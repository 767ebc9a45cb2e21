import { randomBytes } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { request } from "node:http";
import type { Socket } from "node:net";

import { poll } from "@roost/kit";
import { Sandbox, TimeoutError } from "e2b";
import { beforeAll, describe, expect, test } from "vitest";

import { accessTokenOf, failureOf, output, sandboxTimeoutMs, until, useE2b, useE2bSandbox } from "../support/e2b.ts";
import { envelope, exchange, openRaw, rawTarget, requestBytes, statusOf, type RawTarget } from "../support/raw-client.ts";

const platform = useE2b();
/** Takes what hostile clients send. */
const target = useE2bSandbox();
/** Belongs to somebody else, who must not notice. */
const bystander = useE2bSandbox();

const streams = 1_000;
/** For all of them to begin in `ms`: a guest whose CPU is emulated takes some 20 a second. */
const manyStreamsTimeoutMs = 150_000;
const agentPort = 49983;
const MiB = 1024 ** 2;

let server: RawTarget;
let token: string;
let before: { readonly rssBytes: number; readonly descriptors: number };
beforeAll(async () => {
  server = rawTarget(platform().client.url);
  token = accessTokenOf(target());
  await output(target(), "head -c 100000000 /dev/zero > /tmp/large");
  before = await serverProcess();
});

/** Memory and open files of the platform's process. */
async function serverProcess(): Promise<{ rssBytes: number; descriptors: number }> {
  const { pid } = platform();
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const rssKib = Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]);
  return { rssBytes: rssKib * 1024, descriptors: (await readdir(`/proc/${pid}/fd`)).length };
}

const toAgent = (more: Record<string, string> = {}) => ({
  "e2b-sandbox-id": target().sandboxId,
  "e2b-sandbox-port": String(agentPort),
  "x-access-token": token,
  ...more,
});
const streamHeaders = (more: Record<string, string> = {}) =>
  toAgent({ "content-type": "application/connect+json", "connect-protocol-version": "1", ...more });
const start = JSON.stringify({ process: { cmd: "/bin/true" } });

/** The other sandbox and the API answer, as always. */
async function othersAreServed(): Promise<void> {
  expect(await output(bystander(), "echo served")).toBe("served");
  expect((await Sandbox.getInfo(target().sandboxId)).state).toBe("running");
}

describe("messages that are none", () => {
  test.each([
    ["no envelope at all", Buffer.from("hello")],
    ["an empty body", Buffer.alloc(0)],
    ["text that is no JSON", envelope("{")],
    ["JSON of another shape", envelope('["a"]')],
    ["a field of another type", envelope('{"process": 7}')],
    ["a length that is never sent", envelope(start, { length: start.length + 100 })],
    ["a length of 4 GiB", envelope(start, { length: 0xffff_ffff })],
    ["flags that mean nothing", envelope(start, { flags: 0x80 })],
    ["compression that was not agreed on", envelope(start, { flags: 1 })],
    ["the end before the beginning", envelope("{}", { flags: 2 })],
    ["two messages where one is wanted", Buffer.concat([envelope(start), envelope(start)])],
    ["random bytes", randomBytes(100_000)],
    [
      "bytes that are no text",
      envelope(Buffer.concat([Buffer.from('{"process":{"cmd":"'), Buffer.from([0xff, 0xfe]), Buffer.from('"}}')])),
    ],
  ])("%s: an error, and an end", async (_what, body) => {
    const bytes = requestBytes("POST", "/process.Process/Start", streamHeaders({ "content-length": String(body.length) }), body);
    const answer = await exchange(server, bytes);
    expect(statusOf(answer) >= 400 || /"error"/.test(answer), answer.slice(0, 500)).toBe(true);
    expect(statusOf(answer)).not.toBe(500);
  });

  test("what is not known is tolerated", async () => {
    const message = JSON.stringify({ process: { cmd: "/bin/echo", args: ["tolerated"], future: { a: [1] } }, another: null });
    const answer = await exchange(server, requestBytes("POST", "/process.Process/Start", streamHeaders(), envelope(message)));
    expect(statusOf(answer)).toBe(200);
    expect(answer).toContain(Buffer.from("tolerated\n").toString("base64"));
  });

  test.each([
    ["/process.Process/Nothing", {}, [404, 501]],
    ["/no.Such/Service", {}, [404, 501]],
    ["/process.Process/Start", { "content-type": "text/plain" }, [400, 415]],
    ["/process.Process/List", { "content-type": "application/json" }, [400]],
  ])("%s with %j", async (path, more, statuses) => {
    expect(statuses).toContain(statusOf(await exchange(server, requestBytes("POST", path, streamHeaders(more), "{{"))));
  });

  test("a unary message of 100 MiB is refused before it is sent", async () => {
    const headers = toAgent({ "content-type": "application/json", "content-length": String(100 * MiB) });
    const answer = await exchange(server, requestBytes("POST", "/process.Process/List", headers, "{"), (text) => text.includes("\r\n\r\n"));
    expect(statusOf(answer)).toBeGreaterThanOrEqual(400);
  });
});

describe("requests that are none", () => {
  test.each([
    ["noise", randomBytes(5_000)],
    ["a TLS hello", Buffer.from("160301020001000001fc0303", "hex")],
    ["another protocol", Buffer.from("SSH-2.0-OpenSSH_9.2\r\n")],
    ["HTTP/2 without asking", Buffer.from("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")],
    ["a method that is none", Buffer.from("FROB / HTTP/1.1\r\nhost: x\r\n\r\n")],
    ["a head of 1 MiB", Buffer.from(`GET / HTTP/1.1\r\nhost: x\r\nlarge: ${"x".repeat(MiB)}\r\n\r\n`)],
    ["100,000 headers", Buffer.from(`GET / HTTP/1.1\r\nhost: x\r\n${"a: b\r\n".repeat(100_000)}\r\n`)],
    ["a target of 1 MiB", Buffer.from(`GET /${"x".repeat(MiB)} HTTP/1.1\r\nhost: x\r\n\r\n`)],
    ["a control character in a header", Buffer.from("GET / HTTP/1.1\r\nhost: x\r\nodd: a\u0000b\r\n\r\n")],
    ["a folded header", Buffer.from("GET / HTTP/1.1\r\nhost: x\r\nodd: a\r\n b\r\n\r\n")],
  ])("%s: a refusal or the end of the connection", async (_what, bytes) => {
    const answer = await exchange(server, bytes, (text) => text.includes("\r\n\r\n"));
    expect(answer === "" || statusOf(answer) >= 400, answer.slice(0, 200)).toBe(true);
  });

  test.each([
    ["two lengths", { "content-length": "5, 6" }],
    ["a length and chunks", { "content-length": "5", "transfer-encoding": "chunked" }],
    ["a negative length", { "content-length": "-1" }],
    ["an unknown coding", { "transfer-encoding": "frob" }],
    ["chunks twice", { "transfer-encoding": "chunked, chunked" }],
  ])("%s are not passed on", async (_what, headers) => {
    const smuggled = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    const answer = await exchange(server, requestBytes("POST", "/process.Process/List", { ...toAgent(), ...headers }, smuggled), (text) =>
      text.includes("\r\n\r\n"),
    );
    expect(statusOf(answer), answer.slice(0, 300)).toBeGreaterThanOrEqual(400);
    expect(answer).not.toContain("smuggled");
  });

  test.each([
    { "e2b-sandbox-id": "../../etc" },
    { "e2b-sandbox-id": "x".repeat(5_000) },
    { "e2b-sandbox-id": "ABC" },
    { "e2b-sandbox-id": "" },
    { "e2b-sandbox-id": "i1", "e2b-sandbox-port": "99999999999999999999" },
  ])("%j is refused", async (headers) => {
    const status = statusOf(await exchange(server, requestBytes("GET", "/", { "e2b-sandbox-port": "80", ...headers })));
    expect(status).toBeGreaterThanOrEqual(400);
    expect(status).not.toBe(500);
  });

  test("500 sandboxes that do not exist", async () => {
    const answers = await Promise.all(
      Array.from({ length: 500 }, async () => {
        const id = `i${randomBytes(10).toString("hex")}`;
        return statusOf(await exchange(server, requestBytes("GET", "/", { "e2b-sandbox-id": id, "e2b-sandbox-port": "80" })));
      }),
    );
    expect(new Set(answers)).toEqual(new Set([502]));
    await othersAreServed();
  });
});

describe("clients that do not go on", () => {
  const sockets: Socket[] = [];
  const open = async (bytes: Buffer | string) => {
    const socket = await openRaw(server);
    socket.write(bytes);
    sockets.push(socket);
    return socket;
  };
  const closeAll = async () => {
    for (const socket of sockets.splice(0)) socket.destroy();
  };

  test("heads and bodies that are never finished hold up nobody", async () => {
    const head = requestBytes("POST", "/process.Process/Start", streamHeaders({ "content-length": "1000" }));
    const upload = requestBytes(
      "POST",
      "/files?path=/tmp/never",
      toAgent({ "content-type": "application/octet-stream", "content-length": "1000000" }),
    );
    const create = `POST /sandboxes HTTP/1.1\r\nhost: x\r\nx-api-key: ${process.env["E2B_API_KEY"]}\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{"templ`;
    for (let count = 0; count < 50; count += 1) {
      await open("GET /v2/sandboxes HTTP/1.1\r\nhost: x\r\nx-");
      await open(head);
      await open(Buffer.concat([upload, Buffer.alloc(100)]));
      await open(create);
    }
    await othersAreServed();
    await closeAll();
    await until("the upload is given up", async () => !(await target().files.exists("/tmp/never")));
  });

  test("a client that has said all it will gets its answer", async () => {
    const socket = await open(
      requestBytes(
        "POST",
        "/process.Process/Start",
        streamHeaders(),
        envelope(JSON.stringify({ process: { cmd: "/bin/sh", args: ["-c", "sleep 1; echo late"] } })),
      ),
    );
    let answer = "";
    socket.setEncoding("latin1").on("data", (chunk: string) => void (answer += chunk));
    socket.end();
    // Node's servers take a closed half for a client that left; either way the connection ends, and soon
    await until("the end", () => socket.readableEnded || socket.destroyed);
    expect(answer === "" || answer.startsWith("HTTP/1.1 200")).toBe(true);
    await closeAll();
  });

  test("uploads that break off leave no file and no memory", async () => {
    for (let count = 0; count < 20; count += 1) {
      const headers = toAgent({ "content-type": "application/octet-stream", "transfer-encoding": "chunked" });
      const socket = await open(requestBytes("POST", `/files?path=/tmp/broken/${count}`, headers));
      const chunk = Buffer.alloc(256 * 1024);
      for (let part = 0; part < 4; part += 1)
        socket.write(Buffer.concat([Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, Buffer.from("\r\n")]));
      setTimeout(() => socket.destroy(), 50);
    }
    await until("the connections' end", () => sockets.every((socket) => socket.destroyed));
    expect(await output(target(), "ls /tmp/broken 2>/dev/null || true")).toBe("");
    await closeAll();
  });

  test("readers that do not read hold what they asked for back, and nobody else", async () => {
    const download = requestBytes("GET", "/files?path=/tmp/large", toAgent());
    for (let count = 0; count < 20; count += 1) {
      const socket = await open(download);
      socket.pause();
    }
    await othersAreServed();
    await until("the answers have begun", () => sockets.every((socket) => socket.readableLength > 0 || socket.bytesRead > 0));
    await othersAreServed();
    // 20 times 100 MB are asked for: with nobody reading they stay where they are
    expect((await serverProcess()).rssBytes - before.rssBytes).toBeLessThan(300 * MiB);
    await closeAll();
    await othersAreServed();
  });

  test("a reader that is slow gets everything in the end", async () => {
    await output(target(), "head -c 3000000 /dev/urandom > /tmp/slow");
    const socket = await open(requestBytes("GET", "/files?path=/tmp/slow", toAgent({ connection: "close" })));
    let bytes = 0;
    socket.on("data", (chunk: Buffer) => {
      bytes += chunk.length;
      socket.pause();
      setTimeout(() => socket.resume(), 5);
    });
    await until("the end of the file", () => socket.destroyed || socket.readableEnded);
    expect(bytes).toBeGreaterThan(3_000_000);
    await closeAll();
  });
});

interface Answer {
  readonly status: number | undefined;
  readonly body: string;
}

/** One stream of a process's output, over a connection of its own. */
function listen(pid: number) {
  const message = envelope(JSON.stringify({ process: { pid } }));
  let body = "";
  const asking = request({
    ...server,
    method: "POST",
    path: "/process.Process/Connect",
    agent: false,
    headers: streamHeaders({ "content-length": String(message.length) }),
  });
  const answer = new Promise<Answer>((resolve, reject) => {
    asking.on("response", (response) => {
      response.setEncoding("latin1").on("data", (chunk: string) => void (body += chunk));
      response.on("end", () => resolve({ status: response.statusCode, body }));
      response.on("error", reject);
    });
    asking.on("error", reject).end(message);
  });
  answer.catch(() => undefined); // looked at by who waits for all of them, if the test gets that far
  return { answer, hasBegun: () => body !== "", destroy: () => asking.destroy() };
}

describe("many at once", () => {
  test(`${streams} streams of one sandbox, and all of them end`, async () => {
    const waiting = await target().commands.run("until [ -e ~/all-go ]; do sleep 0.2; done; echo everybody-hears", {
      background: true,
      timeoutMs: 0,
    });
    const listeners = Array.from({ length: streams }, () => listen(waiting.pid));
    try {
      await poll({ what: "all of them listen", timeoutMs: manyStreamsTimeoutMs, intervalMs: 200 }, async () => {
        const begun = listeners.filter(({ hasBegun }) => hasBegun()).length;
        if (begun === streams) return true;
        await othersAreServed();
        throw new Error(`${begun} of ${streams}`);
      });
      await othersAreServed();
      await target().files.write("all-go", "");
      const wanted = Buffer.from("everybody-hears\n").toString("base64");
      const heard = await Promise.all(listeners.map(({ answer }) => answer));
      expect(heard.filter(({ status, body }) => status !== 200 || !body.includes(wanted))).toEqual([]);
      await waiting.wait();
    } finally {
      for (const { destroy } of listeners) destroy();
    }
    await othersAreServed();
  });

  test("a sandbox that ends takes all its streams with it", async () => {
    const own = await Sandbox.create({ timeoutMs: sandboxTimeoutMs });
    const commands = await Promise.all(Array.from({ length: 50 }, () => own.commands.run("sleep 300", { background: true, timeoutMs: 0 })));
    const ended = commands.map((command) => failureOf(command.wait()));
    await own.kill();
    for (const error of await Promise.all(ended)) expect(error).toBeInstanceOf(TimeoutError);
    await othersAreServed();
  });
});

test("afterwards the platform has what it had", async () => {
  await until("its open files are those of the start", async () => {
    const { descriptors } = await serverProcess();
    if (descriptors <= before.descriptors + 20) return true;
    throw new Error(`${descriptors} of ${before.descriptors}`);
  });
  // Collected memory is not all given back at once; growth by what clients sent or asked for (gigabytes) would show
  expect((await serverProcess()).rssBytes - before.rssBytes).toBeLessThan(200 * MiB);
  await othersAreServed();
});
