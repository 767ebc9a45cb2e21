import { AuthenticationError, E2B, Sandbox, SandboxError, Template, TimeoutError } from "e2b";
import { Sandbox as OldSandbox } from "e2b-old";
import { beforeAll, describe, expect, test } from "vitest";

import { api, failureOf, ownSandbox, sandboxTimeoutMs, toPort, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";
import { exchange, rawTarget, requestBytes, statusOf } from "../../support/raw-client.ts";

const platform = useE2b();
const sandbox = useE2bSandbox();

const apiKey = () => process.env["E2B_API_KEY"] ?? "";
/** Looks like one, and is nobody's. */
const strangersKey = `e2b_${"0".repeat(40)}`;

describe("keys", () => {
  test("one that nobody has", async () => {
    await expect(Sandbox.create({ apiKey: strangersKey })).rejects.toBeInstanceOf(AuthenticationError);
    await expect(Sandbox.list({ apiKey: strangersKey }).nextItems()).rejects.toBeInstanceOf(AuthenticationError);
    const answer = await api("GET", "/v2/sandboxes", undefined, { "x-api-key": strangersKey });
    expect([answer.status, await answer.json()]).toMatchObject([401, { code: 401, message: expect.any(String) }]);
  });

  test("none", async () => {
    const answer = await fetch(new URL("/v2/sandboxes", process.env["E2B_API_URL"]));
    expect([answer.status, await answer.json()]).toMatchObject([401, { code: 401 }]);
  });

  test("Roost's own form, and as a bearer token", async () => {
    const own = apiKey().replace("e2b_", "roost_");
    expect((await api("GET", "/v2/sandboxes", undefined, { "x-api-key": own })).status).toBe(200);
    const bearer = await fetch(new URL("/v2/sandboxes", process.env["E2B_API_URL"]), { headers: { authorization: `Bearer ${apiKey()}` } });
    expect(bearer.status).toBe(200);
  });

  test("of a client object, apart from the environment", async () => {
    const { E2B_API_URL: apiUrl = "", E2B_SANDBOX_URL: sandboxUrl = "" } = process.env;
    const stranger = new E2B({ apiKey: strangersKey, apiUrl, sandboxUrl });
    await expect(stranger.Sandbox.list().nextItems()).rejects.toBeInstanceOf(AuthenticationError);
    const client = new E2B({ apiKey: apiKey(), apiUrl, sandboxUrl });
    const connected = await client.Sandbox.connect(sandbox().sandboxId);
    expect((await connected.commands.run("echo bound")).stdout).toBe("bound\n");
  });
});

describe("requests that are wrong", () => {
  test.each<[string, string, unknown, string]>([
    ["POST", "/sandboxes", {}, "templateID"],
    ["POST", "/sandboxes", { templateID: 7 }, "templateID"],
    ["POST", "/sandboxes", { templateID: "base", timeout: "long" }, "timeout"],
    ["POST", "/sandboxes", { templateID: "base", timeout: -1 }, "timeout"],
    ["POST", "/sandboxes", { templateID: "base", metadata: ["a"] }, "metadata"],
    ["POST", "/sandboxes", { templateID: "base", metadata: { a: 1 } }, "metadata"],
    ["POST", "/v2/sandboxes", { templateID: "base", envVars: { A: true } }, "envVars"],
    ["POST", "/v2/sandboxes", { templateID: "base", autoPause: "yes" }, "autoPause"],
    ["POST", "/v2/sandboxes", { templateID: "base", network: { allowOut: "1.1.1.1" } }, "allowOut"],
    ["POST", "/sandboxes/$ID/timeout", {}, "timeout"],
    ["POST", "/sandboxes/$ID/timeout", { timeout: "5" }, "timeout"],
    ["POST", "/sandboxes/$ID/connect", { timeout: null }, "timeout"],
    ["POST", "/sandboxes/$ID/fork", { count: "two" }, "count"],
    ["POST", "/sandboxes/$ID/pause", { memory: "no" }, "memory"],
    ["POST", "/sandboxes/$ID/snapshots", { name: 1 }, "name"],
    ["PUT", "/sandboxes/$ID/network", { denyOut: [1] }, "denyOut"],
  ])("%s %s %j: 400 that names %s", async (method, path, body, named) => {
    const answer = await api(method, path.replace("$ID", sandbox().sandboxId), body);
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ code: 400, message: expect.stringContaining(named) });
  });

  test.each(["{", "[]", "null", '"text"', ""])("a body of %j", async (body) => {
    const answer = await api("POST", "/sandboxes", body);
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ code: 400, message: expect.any(String) });
  });

  test("a body that is too large is refused before it is sent", async () => {
    const headers = { "x-api-key": apiKey(), "content-type": "application/json", "content-length": "8000000" };
    const answer = await exchange(rawTarget(process.env["E2B_API_URL"] ?? ""), requestBytes("POST", "/sandboxes", headers, "{"));
    expect(statusOf(answer)).toBe(413);
    expect(answer).toContain('"code":413');
  });

  test("what is not known is tolerated", async () => {
    const answer = await api("POST", "/v2/sandboxes?future=1", {
      templateID: "base",
      timeout: 60,
      futureOption: { nested: [1] },
      network: { alsoNew: 1 },
    });
    expect(answer.status).toBe(201);
    const { sandboxID } = (await answer.json()) as { sandboxID: string };
    expect(await Sandbox.kill(sandboxID)).toBe(true);
  });

  test.each([
    ["GET", "/v2/sandboxes/nothing/here", 404],
    ["GET", "/sandboxes/izzzzzzzzzzzzzzzzzzzz", 404],
    ["GET", "/sandboxes/..%2fetc", 404],
    ["GET", "/templates/no-such-template", 404],
    ["DELETE", "/templates/no-such-template", 404],
  ])("%s %s: %i as JSON with its code", async (method, path, status) => {
    const answer = await api(method, path);
    expect([answer.status, await answer.json()]).toMatchObject([status, { code: status, message: expect.any(String) }]);
  });
});

describe("what there is not", () => {
  test("volumes are refused when they are asked for, not ignored", async () => {
    expect(await failureOf(Sandbox.create({ volumeMounts: { "/data": "my-volume" } }))).toMatchObject({
      statusCode: 400,
      message: expect.stringMatching(/volume/i),
    });
  });

  test("workload identity as well", async () => {
    const error = await failureOf(Sandbox.create({ iam: { tokens: { aws: { audience: "sts", tokenType: "JWT-SVID" } } } }));
    expect(error).toMatchObject({ statusCode: 400, message: expect.stringContaining("iam") });
  });

  test("an MCP gateway: base has none, and no sandbox is left behind", async () => {
    const before = (await Sandbox.list().nextItems()).length;
    expect((await failureOf(Sandbox.create("base", { mcp: {} as never }))).message).toContain("mcp-gateway: command not found");
    await until("the sandbox is gone", async () => (await Sandbox.list().nextItems()).length === before);
    await expect(Sandbox.create({ mcp: {} as never })).rejects.toBeInstanceOf(SandboxError);
  });

  test("template builds as clients asked for them before E2B's builder", async () => {
    for (const path of ["/templates", "/v2/templates", "/templates/mine", "/templates/mine/builds/1"]) {
      const answer = await api("POST", path, {});
      expect([answer.status, await answer.json()], path).toMatchObject([501, { message: expect.stringContaining("POST /v3/templates") }]);
    }
  });
});

describe("templates", () => {
  test("exist or do not", async () => {
    expect(await Template.exists("base")).toBe(true);
    expect(await Template.exists("no-such-template")).toBe(false);
  });

  test("are listed as the CLI wants them", async () => {
    const templates = (await (await api("GET", "/templates")).json()) as Record<string, unknown>[];
    const base = templates.find(({ templateID, names, aliases }) =>
      [templateID, ...(names as string[]), ...(aliases as string[])].includes("base"),
    );
    expect(base).toMatchObject({
      cpuCount: expect.any(Number),
      memoryMB: expect.any(Number),
      buildID: expect.any(String),
      public: expect.any(Boolean),
    });
  });

  test("there is one team", async () => {
    const teams = (await (await api("GET", "/teams")).json()) as Record<string, unknown>[];
    expect(teams).toHaveLength(1);
    expect(teams[0]).toMatchObject({ teamID: expect.any(String), name: expect.any(String), isDefault: true });
  });
});

describe("sandboxes that are gone in the middle of something", () => {
  test("a watch learns it", async () => {
    const own = await Sandbox.create();
    let why: Error | undefined;
    await own.files.watchDir("/tmp", () => undefined, { timeoutMs: 0, onExit: (error) => void (why = error) });
    await own.kill();
    expect(await until("its end", () => why)).toBeInstanceOf(TimeoutError);
  });

  test("a download learns it", async () => {
    const own = await Sandbox.create();
    await own.commands.run("head -c 200000000 /dev/zero > large");
    const reader = (await own.files.read("large", { format: "stream" })).getReader();
    await reader.read();
    await own.kill();
    const drained = (async () => {
      while (!(await reader.read()).done);
    })();
    expect((await failureOf(drained)).message).toMatch(/terminated|abort|closed/i);
  });

  test("a pause cuts what runs, and a resume does not bring the stream back", async () => {
    await using own = await ownSandbox();
    const command = await own.commands.run("sleep 300", { background: true, timeoutMs: 0 });
    const failed = failureOf(command.wait());
    await own.pause();
    await failed;
    await own.connect();
    const again = await own.commands.connect(command.pid, { timeoutMs: 0 });
    expect(await again.kill()).toBe(true);
  });

  test("a restart of the platform leaves sandboxes and their handles as they were", async () => {
    const before = (await sandbox().getInfo()).endAt;
    const { E2B_API_URL: url } = process.env;
    await sandbox().files.write("kept", "yes");
    await platform().killHard();
    await platform().up(["--port", new URL(url ?? "").port]);
    expect(platform().client.url).toBe(url);
    await until("the sandbox", async () => sandbox().isRunning());
    expect(await sandbox().files.read("kept")).toBe("yes");
    expect((await sandbox().getInfo()).endAt).toEqual(before);
  });
});

describe("an older SDK (2.16.0)", () => {
  /** Its classes are its own: the same name is another class. */
  const named = (name: string) => expect.objectContaining({ name });

  test("creates, runs, writes, reads, watches, pauses, connects and kills", async () => {
    const own = await OldSandbox.create({ timeoutMs: sandboxTimeoutMs, metadata: { sdk: "old" }, envs: { OLD: "yes" } });
    try {
      expect(await own.isRunning()).toBe(true);
      expect((await own.commands.run("echo $OLD; echo err >&2")).stdout).toBe("yes\n");
      await own.files.write("old/file.txt", "written by the old one");
      expect(await own.files.read("old/file.txt")).toBe("written by the old one");
      expect(await own.files.exists("old/nothing")).toBe(false);
      const events: string[] = [];
      const watch = await own.files.watchDir("old", (event) => void events.push(event.name), { timeoutMs: 0 });
      await own.files.write("old/new.txt", "x");
      await until("the event", () => events.includes("new.txt"));
      await watch.stop();
      expect(await own.betaPause()).toBe(true);
      const again = await OldSandbox.connect(own.sandboxId);
      expect(await again.files.read("old/file.txt")).toBe("written by the old one");
    } finally {
      await own.kill();
    }
    expect(await own.isRunning()).toBe(false);
  });

  const old = useOldSandbox();

  test("info, list, timeout", async () => {
    const info = await old().getInfo();
    expect(info).toMatchObject({ sandboxId: old().sandboxId, state: "running" });
    const listed = await OldSandbox.list({ query: { metadata: { sdk: "shared old" } } }).nextItems();
    expect(listed.map(({ sandboxId }) => sandboxId)).toEqual([old().sandboxId]);
    const before = info.endAt.getTime();
    await old().setTimeout(2 * sandboxTimeoutMs);
    expect((await old().getInfo()).endAt.getTime()).toBeGreaterThan(before);
  });

  test("background commands, input, kill, list", async () => {
    const handle = await old().commands.run("cat", { background: true, stdin: true, timeoutMs: 0 });
    await old().commands.sendStdin(handle.pid, "to the old one\n");
    await until("the echo", () => handle.stdout === "to the old one\n");
    expect((await old().commands.list()).map(({ pid }) => pid)).toContain(handle.pid);
    const ended = failureOf(handle.wait());
    expect(await handle.kill()).toBe(true);
    await ended;
  });

  test("a terminal", async () => {
    let screen = "";
    const terminal = await old().pty.create({
      cols: 80,
      rows: 24,
      timeoutMs: 0,
      onData: (data) => void (screen += Buffer.from(data).toString()),
    });
    await old().pty.sendInput(terminal.pid, Buffer.from("echo $((6*7))-old\n"));
    await until("the answer", () => screen.includes("42-old"));
    expect(await old().pty.kill(terminal.pid)).toBe(true);
  });

  test("signed URLs", async () => {
    await old().files.write("signed.txt", "signed");
    const url = await old().downloadUrl("signed.txt", { useSignatureExpiration: 60 });
    expect(await (await fetch(url)).text()).toBe("signed");
    expect((await old().files.list(".")).map(({ name }) => name)).toContain("signed.txt");
  });

  test("metrics", async () => {
    const metrics = await until("the first metrics", async () => {
      const now = await old().getMetrics();
      return now.length > 0 && now;
    });
    expect(metrics[0]).toMatchObject({ cpuCount: expect.any(Number), memTotal: expect.any(Number), diskTotal: expect.any(Number) });
  });

  test("its own classes of errors", async () => {
    expect(await failureOf(old().files.read("nowhere"))).toEqual(named("FileNotFoundError"));
    expect(await failureOf(old().commands.run("exit 3"))).toMatchObject({ exitCode: 3 });
    expect(await failureOf(old().commands.run("sleep 60", { timeoutMs: 1_000 }))).toEqual(named("TimeoutError"));
    expect(await failureOf(OldSandbox.create({ apiKey: strangersKey }))).toEqual(named("AuthenticationError"));
    expect(await OldSandbox.kill("izzzzzzzzzzzzzzzzzzzz")).toBe(false);
  });

  test("shares sandboxes with the newest", async () => {
    const same = await Sandbox.connect(old().sandboxId);
    await same.files.write("from-new", "hello");
    expect(await old().files.read("from-new")).toBe("hello");
    expect((await toPort(old().sandboxId, 49983, "/health")).status).toBe(204);
  });
});

function useOldSandbox(): () => OldSandbox {
  let made: OldSandbox | undefined;
  beforeAll(async () => {
    made = await OldSandbox.create({ timeoutMs: sandboxTimeoutMs, metadata: { sdk: "shared old" } });
  });
  return () => {
    if (made === undefined) throw new Error("the sandbox did not start");
    return made;
  };
}
