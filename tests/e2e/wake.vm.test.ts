import { request as httpRequest, type IncomingMessage } from "node:http";

import { must, poll, sleep } from "@roost/kit";
import { SeededRandom } from "@roost/testing";
import type { SandboxHandle } from "@roost/sdk";
import { beforeAll, describe, expect, test } from "vitest";

import { usePlatform } from "../support/platform.ts";

/** Requests to sandboxes that others pause and resume; the soak has 1,000 */
const requestCount = Number(process.env["WAKE_REQUESTS"] ?? "60");
const atOnce = 6;
/** To a paused sandbox, all at the same moment */
const crowd = 50;
const app = 3000;

// Emulated, an app that shares its CPU with others may take longer than the five seconds that a pause waits for it by default
const platform = usePlatform({ ROOST_PAUSE_DRAIN_SEC: process.env["WAKE_DRAIN_SEC"] ?? "60" });
beforeAll(async () => platform().untilMemoryImage());

/** Notes each request that gets to it, and takes its time for the answer; tells what it has noted; streams events. */
const program = `
import http.server, json, random, threading, time
seen = {}
lock = threading.Lock()
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def noted(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        with lock: seen[self.path] = seen.get(self.path, 0) + 1
        time.sleep(random.random() * 0.2)
        self.answer(self.command + " " + self.path)
    def do_GET(self):
        if self.path == "/seen": return self.answer(json.dumps(seen))
        if self.path != "/events": return self.noted()
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.end_headers()
        while True:
            self.wfile.write(b"data: 1\\n\\n")
            self.wfile.flush()
            time.sleep(0.2)
    do_POST = noted
    def log_message(self, *arguments): pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 256
Server(("127.0.0.1", ${app}), Handler).serve_forever()
`;

interface Answer {
  readonly status: number;
  readonly body: string;
}

function open(sandbox: SandboxHandle, method: string, path: string, token: string): Promise<IncomingMessage> {
  const { hostname, port } = new URL(platform().client.url);
  const headers = { host: `${app}-${sandbox.id}.sandbox.localhost`, "roost-traffic-token": token };
  return new Promise((resolve, reject) => {
    httpRequest({ host: hostname, port, method, path, headers, agent: false, timeout: 180_000 }, resolve)
      .on("timeout", function timedOut(this: { destroy(error: Error): void }) {
        this.destroy(new Error(`${method} ${path} was not answered in time`));
      })
      .on("error", reject)
      .end(method === "POST" ? "x".repeat(10_000) : undefined);
  });
}

async function ask(sandbox: SandboxHandle, method: string, path: string, token: string): Promise<Answer> {
  const answer = await open(sandbox, method, path, token);
  let body = "";
  for await (const chunk of answer.setEncoding("utf8")) body += chunk as string;
  return { status: answer.statusCode ?? 0, body };
}

interface Served {
  readonly sandbox: SandboxHandle;
  readonly token: string;
}

async function serve(timeoutSec: number): Promise<Served> {
  const sandbox = await platform().sandbox({ timeout_sec: timeoutSec, auto_resume: true });
  const { token } = await sandbox.ports.token();
  await sandbox.files.write("/home/user/app.py", program);
  // Not through the API's background commands: those are use of the sandbox, too
  await sandbox.exec("sh", { args: ["-c", "setsid python3 /home/user/app.py </dev/null >/dev/null 2>&1 &"] });
  await poll({ what: "the app's first answer", timeoutMs: 60_000 }, async () =>
    (await ask(sandbox, "GET", "/seen", token)).status === 200 ? true : undefined,
  );
  return { sandbox, token };
}

async function countEvents(sandbox: SandboxHandle, kinds: readonly string[]): Promise<number> {
  let count = 0;
  for await (const { kind } of platform().client.events.list({ sandboxId: sandbox.id })) if (kinds.includes(kind)) count += 1;
  return count;
}

const wakes = ["sandbox.auto_resumed", "sandbox.resumed"];

describe("requests wake sandboxes", () => {
  test(`${crowd} at once to a paused one resume it once, and each is answered by the app`, async () => {
    const { sandbox, token } = await serve(0);
    await sandbox.pause();
    const before = await countEvents(sandbox, wakes);
    const answers = await Promise.all(Array.from({ length: crowd }, (_, index) => ask(sandbox, "GET", `/crowd/${index}`, token)));
    expect(answers).toEqual(Array.from({ length: crowd }, (_, index) => ({ status: 200, body: `GET /crowd/${index}` })));
    expect((await countEvents(sandbox, wakes)) - before).toBe(1);
    expect(await countEvents(sandbox, ["sandbox.auto_resumed"])).toBe(1);
    await sandbox.delete();
  });

  test(
    `none of ${requestCount} is lost, and none gets there twice, while others pause and resume at random`,
    async () => {
      const random = new SeededRandom();
      const { seed } = random;
      const served = await Promise.all([serve(0), serve(0)]);
      const over = new AbortController();
      let pauses = 0;
      const others = served.map(async ({ sandbox }) => {
        while (!over.signal.aborted) {
          await sleep(random.integer(1_500));
          // It may be changing already, by the request that woke it: then somebody else has won
          const change = random.next() < 0.8 ? sandbox.pause() : sandbox.resume();
          await change.then(
            ({ state }) => (pauses += state === "paused" ? 1 : 0),
            (error: unknown) => expect(String(error)).toMatch(/sandbox is|being|state|busy/i),
          );
        }
      });
      const left = Array.from({ length: requestCount }, (_, index) => index);
      const worker = async () => {
        for (let index = left.shift(); index !== undefined; index = left.shift()) {
          const { sandbox, token } = must(served[index % served.length], "a sandbox");
          await sleep(random.integer(1_000));
          const method = index % 4 === 3 ? "POST" : "GET";
          expect(await ask(sandbox, method, `/request/${index}`, token), `SEED=${seed}`).toEqual({
            status: 200,
            body: `${method} /request/${index}`,
          });
        }
      };
      try {
        await Promise.all(Array.from({ length: atOnce }, worker));
      } finally {
        over.abort();
        await Promise.all(others);
      }
      const seen: Record<string, number> = {};
      for (const { sandbox, token } of served) Object.assign(seen, JSON.parse((await ask(sandbox, "GET", "/seen", token)).body));
      expect(seen, `SEED=${seed}`).toEqual(
        Object.fromEntries(Array.from({ length: requestCount }, (_, index) => [`/request/${index}`, 1])),
      );
      expect(pauses, "pauses meanwhile").toBeGreaterThan(2);
      for (const { sandbox } of served) await sandbox.delete();
    },
    120_000 + 3_000 * requestCount,
  );

  test("a stream that somebody reads is use; without one the sandbox is paused; a pause that is asked for cuts it", async () => {
    const { sandbox, token } = await serve(3);
    const events = await open(sandbox, "GET", "/events", token);
    let count = 0;
    let isOver = false;
    events.on("data", () => (count += 1)).on("error", () => undefined);
    events.on("close", () => (isOver = true));
    await poll({ what: "events for longer than the timeout", timeoutMs: 60_000 }, () => (count > 30 ? true : undefined));
    expect((await sandbox.get()).state).toBe("running");
    await sandbox.pause(); // waits a minute for requests that end, and not for this one
    await poll({ what: "the end of the stream", timeoutMs: 10_000 }, () => (isOver ? true : undefined));
    expect(await ask(sandbox, "GET", "/after", token)).toEqual({ status: 200, body: "GET /after" });
    await poll({ what: "the pause", timeoutMs: 60_000 }, async () => ((await sandbox.get()).state === "paused" ? true : undefined));
    await sandbox.delete();
  });
});
