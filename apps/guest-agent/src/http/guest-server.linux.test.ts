import { connect } from "node:net";

import { guestClockHeader, guestMetricsSchema } from "@roost/contract";
import { afterEach, beforeEach, describe, expect, test } from "vitest";

import type { MachineChange } from "../init/guest-machine.ts";
import { runShell } from "../testing/run-process.ts";
import { startTestAgent, type TestAgent } from "../testing/test-agent.ts";

let agent: TestAgent;
beforeEach(async () => {
  agent = await startTestAgent();
});
afterEach(async () => agent[Symbol.asyncDispose]());

const token = "t".repeat(40);
const get = async (path: string, headers: Record<string, string> = {}) => fetch(agent.url + path, { headers });
const init = async (body: unknown, headers: Record<string, string> = {}) =>
  fetch(`${agent.url}/init`, { method: "POST", headers, body: typeof body === "string" ? body : JSON.stringify(body) });

/** Sends bytes as they are and answers what comes back until the server closes. */
async function raw(bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect({ host: "127.0.0.1", port: agent.port });
    let answer = "";
    socket.setEncoding("latin1");
    socket.on("data", (text: string) => {
      answer += text;
    });
    socket.on("close", () => resolve(answer));
    socket.on("error", reject);
    socket.end(bytes);
  });
}

describe("plain endpoints", () => {
  test("GET and HEAD /health answer 204", async () => {
    expect((await get("/health")).status).toBe(204);
    expect((await fetch(`${agent.url}/health`, { method: "HEAD" })).status).toBe(204);
  });

  test("/metrics has the shape of the contract and plausible numbers", async () => {
    const metrics = guestMetricsSchema.parse(await (await get("/metrics")).json());
    expect(metrics.mem_used).toBeGreaterThan(0);
    expect(metrics.mem_used).toBeLessThan(metrics.mem_total);
    expect(metrics.disk_used).toBeLessThanOrEqual(metrics.disk_total);
    expect(metrics.cpu_count).toBeGreaterThan(0);
  });

  test.each([
    "/",
    "/nothing",
    "/freeze",
    "/unfreeze",
    "/collapse",
    "/fsfreeze",
    "/fsthaw",
    "/upgrade",
    "/process.Process/Nothing",
    "/health/",
  ])("%s is 404 with code and message", async (path) => {
    const response = await get(path);
    expect(response.status).toBe(404);
    expect(await response.json()).toEqual({ code: 404, message: expect.any(String) as string });
  });

  test("the wrong method is 405", async () => {
    expect((await fetch(`${agent.url}/metrics`, { method: "DELETE" })).status).toBe(405);
    expect((await get("/init")).status).toBe(405);
  });

  test("any origin may call, and preflights pass without a token", async () => {
    await init({ accessToken: token });
    const response = await fetch(`${agent.url}/process.Process/Start`, {
      method: "OPTIONS",
      headers: { origin: "https://elsewhere.example", "access-control-request-headers": "authorization,x-access-token" },
    });
    expect(response.status).toBe(204);
    expect(response.headers.get("access-control-allow-origin")).toBe("*");
    expect(response.headers.get("access-control-allow-headers")).toBe("authorization,x-access-token");
    expect((await get("/metrics")).headers.get("access-control-allow-origin")).toBe("*");
  });

  test("a request without Host is answered, not fatal", async () => {
    expect(await raw("GET /health HTTP/1.0\r\n\r\n")).toContain(" 204 ");
    expect(await raw("POST /process.Process/List HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}")).toContain(
      " 400 ",
    );
    expect(
      await raw(
        "POST /process.Process/List HTTP/1.1\r\nHost: []/:x\r\nContent-Type: application/json\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}",
      ),
    ).toContain(" 400 ");
    expect((await get("/health")).status).toBe(204);
  });
});

describe("/init", () => {
  test("sets environment, identity, default user and folder of processes", async () => {
    const response = await init({
      envVars: { FROM_INIT: "1", SHARED: "init", HOME: "/init-home" },
      sandboxId: "sb1",
      templateId: "base",
      defaultUser: "daemon",
      defaultWorkdir: "/etc",
    });
    expect(response.status).toBe(204);
    expect(await (await get("/envs")).json()).toEqual({ FROM_INIT: "1", SHARED: "init", HOME: "/init-home" });
    const script = "id -un; pwd; echo $FROM_INIT $SHARED $HOME; echo $ROOST_SANDBOX_ID $E2B_SANDBOX_ID $ROOST_TEMPLATE_ID $E2B_TEMPLATE_ID";
    const outcome = await runShell(agent, script, { process: { cmd: "/bin/sh", envs: { SHARED: "request" } } });
    expect(outcome.stdout).toBe("daemon\n/etc\n1 request /init-home\nsb1 sb1 base base\n");
  });

  test("a default folder that is not there is nobody's trouble, one that was asked for is; without one it is the home", async () => {
    const pwd = async (cwd?: string) => runShell(agent, "pwd", { process: { cmd: "/bin/sh", ...(cwd === undefined ? {} : { cwd }) } });
    await init({ defaultUser: "daemon", defaultWorkdir: "/no/such/folder" });
    expect((await pwd()).stdout).toBe("/usr/sbin\n");
    await expect(pwd("/no/such/folder")).rejects.toThrow("does not exist");
    await init({ defaultUser: "daemon", defaultWorkdir: "/etc" });
    expect((await pwd()).stdout).toBe("/etc\n");
    await init({ defaultUser: "root", defaultWorkdir: "" });
    expect((await pwd()).stdout).toBe("/root\n");
  });

  test("a default user that is not there is never somebody else", async () => {
    await init({ defaultUser: "ghost" });
    await expect(runShell(agent, "id -un")).rejects.toThrow("invalid default user: 'ghost'");
    await init({ defaultUser: "" });
    expect((await runShell(agent, "id -u")).stdout).not.toBe("");
  });

  test("does to the machine what it says, in one go", async () => {
    const entropy = Buffer.from("fresh entropy").toString("base64");
    const timestamp = "2031-05-06T07:08:09.250+02:00";
    const started = performance.now();
    const answer = await init({ hostname: "sb-1", machineId: "0".repeat(32), entropy, timestamp });
    expect(answer.status).toBe(204);
    const [call] = agent.machine.calls as [MachineChange];
    expect(agent.machine.calls).toEqual([
      {
        entropy: Buffer.from("fresh entropy"),
        hostname: "sb-1",
        machineId: "0".repeat(32),
        unixMs: expect.any(Number) as number,
        variables: { ROOST_SANDBOX: "true", E2B_SANDBOX: "true" },
      },
    ]);
    expect(call.unixMs).toBeGreaterThanOrEqual(Date.parse(timestamp));
    expect(call.unixMs).toBeLessThanOrEqual(Date.parse(timestamp) + (performance.now() - started));
  });

  test("tells what the clock shows", async () => {
    const before = Date.now();
    const answer = await init({ timestamp: new Date().toISOString() });
    expect(answer.status).toBe(204);
    expect(Number(answer.headers.get(guestClockHeader))).toBeGreaterThanOrEqual(before);
    expect(Number(answer.headers.get(guestClockHeader))).toBeLessThanOrEqual(Date.now());
  });

  test("that cannot do what it should says so", async () => {
    agent.machine.failure = new Error("clock is stuck");
    const response = await init({ timestamp: "2031-01-01T00:00:00Z" });
    expect(response.status).toBe(500);
    expect(await response.text()).not.toContain("stuck");
  });

  test("with a token closes everything but what needs none", async () => {
    expect((await get("/envs")).status).toBe(200);
    await init({ accessToken: token });
    for (const path of ["/envs", "/metrics", "/nothing"]) {
      const response = await get(path);
      expect(response.status).toBe(401);
      expect(await response.json()).toEqual({ code: 401, message: "invalid access token" });
      expect((await get(path, { "x-access-token": "wrong" })).status).toBe(401);
    }
    await expect(agent.processes.list({})).rejects.toThrow(/unauthenticated/);
    await expect(runShell(agent, "true")).rejects.toThrow(/unauthenticated/);
    expect((await get("/health")).status).toBe(204);
    expect((await get("/envs", { "x-access-token": token })).status).toBe(200);
    expect(await agent.processes.list({}, { headers: { "x-access-token": token } })).toMatchObject({ processes: [] });
  });

  test("a second one must know the token: as header, or as its own", async () => {
    await init({ accessToken: token, envVars: { A: "1" } });
    expect((await init({ envVars: { A: "2" } })).status).toBe(401);
    expect((await init({ accessToken: "another" })).status).toBe(401);
    expect((await init({ accessToken: "another" }, { "x-access-token": "another" })).status).toBe(401);
    expect((await init({ accessToken: token })).status).toBe(204);
    expect((await init({ accessToken: "rotated" }, { "x-access-token": token })).status).toBe(204);
    expect((await get("/envs", { "x-access-token": token })).status).toBe(401);
    expect(await (await get("/envs", { "x-access-token": "rotated" })).json()).toEqual({ A: "1" });
  });

  test("who does not know the token does not learn what is wrong with the body", async () => {
    await init({ accessToken: token });
    expect((await init({ hostname: "NOT VALID" })).status).toBe(401);
  });

  test("a restarted agent is as closed, and as initialized, as the former one", async () => {
    await init({ accessToken: token, envVars: { KEPT: "yes" }, sandboxId: "sb9", defaultUser: "daemon" });
    agent = await agent.restart();
    expect((await get("/envs")).status).toBe(401);
    expect((await init({ accessToken: "another" })).status).toBe(401);
    const outcome = await runShell(agent, "id -un; echo $KEPT $ROOST_SANDBOX_ID", {}, { headers: { "x-access-token": token } });
    expect(outcome.stdout).toBe("daemon\nyes sb9\n");
  });

  test.each([
    ["no JSON", "{", 400],
    ["another type", "[]", 400],
    ["null", "null", 400],
    ["a host name with capitals", { hostname: "Sandbox" }, 400],
    ["a host name that leaves its folder", { hostname: "../x" }, 400],
    ["a machine id that is none", { machineId: "xyz" }, 400],
    ["a timestamp that is none", { timestamp: "yesterday" }, 400],
    ["entropy that is no base64", { entropy: "%%%" }, 400],
    ["an environment name with =", { envVars: { "A=B": "1" } }, 400],
    ["an environment value with NUL", { envVars: { A: "\0" } }, 400],
    ["too much", { envVars: { A: "x".repeat(5_000_000) } }, 413],
  ])("refuses %s and stays uninitialized", async (_what, body, status) => {
    const response = await init(body);
    expect(response.status).toBe(status);
    expect(await response.json()).toMatchObject({ code: status });
    expect(await (await get("/envs")).json()).toEqual({});
    expect(agent.machine.calls).toEqual([]);
  });

  test("ignores what it does not know: newer hosts say more", async () => {
    expect((await init({ hyperloopIP: "192.0.2.1", lifecycleID: "x", volumeMounts: [] })).status).toBe(204);
  });

  test("makes its programs trust an authority, tells them where it is, and takes it away again", async () => {
    const caBundle = "-----BEGIN CERTIFICATE-----\nTWluZQ==\n-----END CERTIFICATE-----\n";
    const trusted = () => agent.machine.calls.flatMap((call) => (typeof call === "object" && "trusted" in call ? [call.trusted] : []));
    const seen = async () => (await runShell(agent, "echo ${NODE_EXTRA_CA_CERTS-none} ${SSL_CERT_FILE-none}")).stdout;
    expect((await init({ sandboxId: "sb1" })).status).toBe(204);
    expect([trusted(), await seen()]).toEqual([[], "none none\n"]);
    expect((await init({ caBundle })).status).toBe(204);
    expect([trusted(), await seen()]).toEqual([[caBundle], "/own.pem /bundle.pem\n"]);
    expect((await init({ timestamp: new Date().toISOString() })).status, "which says nothing of it").toBe(204);
    const next = await agent.restart();
    agent = next;
    expect(await seen(), "also for the next agent").toBe("/own.pem /bundle.pem\n");
    expect((await init({ sandboxId: "sb2", envVars: { SSL_CERT_FILE: "/mine" }, caBundle })).status).toBe(204);
    expect(await seen(), "what the sandbox was given comes first").toBe("/own.pem /mine\n");
    expect((await init({ sandboxId: "sb3", envVars: {} })).status).toBe(204);
    expect([trusted(), await seen()]).toEqual([[caBundle, ""], "none none\n"]);
    expect((await init({ caBundle: "-----BEGIN PRIVATE KEY-----" })).status).toBe(400);
  });
});

describe("/prepare", () => {
  const prepare = async (body: unknown, headers: Record<string, string> = {}) =>
    fetch(`${agent.url}/prepare`, { method: "POST", headers, body: JSON.stringify(body) });

  test("syncs, forgets, or does nothing, as it is told", async () => {
    expect((await prepare({})).status).toBe(204);
    expect(agent.machine.calls).toEqual([]);
    expect((await prepare({ sync: true, forTemplate: true })).status).toBe(204);
    expect(agent.machine.calls).toEqual(["forget", "sync"]);
    agent.machine.trustedAuthority.isInstalled = true;
    expect((await prepare({ forTemplate: true })).status).toBe(204);
    expect(agent.machine.calls.slice(2), "whoever starts from the template trusts nobody").toEqual([{ trusted: "" }, "forget"]);
  });

  test("answers nobody who does not know the token", async () => {
    await init({ accessToken: token });
    expect((await prepare({ sync: true })).status).toBe(401);
    expect((await prepare({ sync: true }, { "x-access-token": token })).status).toBe(204);
  });

  test("for a template forgets token, environment and ids, also for an agent started later", async () => {
    await init({ accessToken: token, envVars: { A: "1" }, sandboxId: "sb1" });
    expect((await prepare({ forTemplate: true }, { "x-access-token": token })).status).toBe(204);
    expect(await (await get("/envs")).json()).toEqual({});
    agent = await agent.restart();
    expect(await (await get("/envs")).json()).toEqual({});
    expect((await runShell(agent, "echo ${ROOST_SANDBOX_ID-none}")).stdout).toBe("none\n");
    expect((await init({ accessToken: "another" })).status).toBe(204);
  });

  test.each(["template", "vm"])("warms up (%s) with real requests, and leaves no token, environment or process", async (warmUp) => {
    expect((await prepare({ warmUp })).status).toBe(204);
    const changes = agent.machine.calls as MachineChange[];
    expect(changes.length).toBeGreaterThanOrEqual(1);
    for (const { entropy, unixMs, hostname, machineId } of changes) {
      expect([entropy?.length, typeof unixMs, typeof hostname, machineId?.length]).toEqual([64, "number", "string", 32]);
    }
    expect((await agent.processes.list({})).processes).toEqual([]);
    expect(await (await get("/envs")).json()).toEqual({});
    expect((await init({ accessToken: token })).status).toBe(204);
  });

  test("warms up a guest that has a token and an environment, and keeps both", async () => {
    await init({ accessToken: token, envVars: { A: "1" } });
    const before = agent.machine.calls.length;
    expect((await prepare({ warmUp: "vm" }, { "x-access-token": token })).status).toBe(204);
    expect(agent.machine.calls.length).toBeGreaterThan(before);
    expect((await get("/envs")).status).toBe(401);
    expect(await (await get("/envs", { "x-access-token": token })).json()).toEqual({ A: "1" });
  });

  test.each([{ sync: "yes" }, { warmUp: "everything" }, []])("refuses %j", async (body) => {
    expect((await prepare(body)).status).toBe(400);
    expect(agent.machine.calls).toEqual([]);
  });

  test("that cannot sync says so", async () => {
    agent.machine.failure = new Error("disk on fire");
    expect((await prepare({ sync: true })).status).toBe(500);
  });
});

describe("codecs", () => {
  test("unary JSON and binary, errors as Connect has them", async () => {
    const call = async (method: string, type: string, body: string | Uint8Array<ArrayBuffer>) =>
      fetch(`${agent.url}/process.Process/${method}`, {
        method: "POST",
        headers: { "content-type": type, "connect-protocol-version": "1" },
        body,
      });
    const list = await call("List", "application/json", "{}");
    expect([list.status, await list.json()]).toEqual([200, {}]);
    const binary = await call("List", "application/proto", new Uint8Array());
    expect([binary.status, (await binary.arrayBuffer()).byteLength]).toEqual([200, 0]);
    const missing = await call("SendSignal", "application/json", JSON.stringify({ process: { pid: 3_999_999 }, signal: "SIGNAL_SIGKILL" }));
    expect([missing.status, await missing.json()]).toEqual([404, { code: "not_found", message: expect.any(String) as string }]);
    expect((await call("List", "text/plain", "{}")).status).toBe(415);
    expect((await call("List", "application/json", "[]")).status).toBe(400);
    const unknown = await call("List", "application/json", JSON.stringify({ newerField: 1 }));
    expect(unknown.status).toBe(200);
  });

  test("gRPC-web answers too", async () => {
    const response = await fetch(`${agent.url}/process.Process/List`, {
      method: "POST",
      headers: { "content-type": "application/grpc-web+proto" },
      body: new Uint8Array(5),
    });
    expect(response.status).toBe(200);
    expect(Buffer.from(await response.arrayBuffer()).toString("latin1")).toContain("grpc-status: 0");
  });

  test("answers are not compressed, whatever the client takes", async () => {
    await init({ envVars: {} });
    const stream = runShell(agent, "sleep 0.3", { process: { cmd: "/bin/sh", envs: { LONG: "x".repeat(10_000) } } });
    const response = await fetch(`${agent.url}/process.Process/List`, {
      method: "POST",
      headers: { "content-type": "application/json", "accept-encoding": "gzip" },
      body: "{}",
    });
    expect(response.headers.get("content-encoding")).toBeNull();
    await stream;
  });
});
