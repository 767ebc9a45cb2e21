import { request } from "node:http";

import { ALL_TRAFFIC, Sandbox, SandboxNotFoundError } from "e2b";
import { beforeAll, describe, expect, test } from "vitest";

import { api, failureOf, killedAtEnd, output, ownSandbox, toPort, until, useE2b, useE2bSandbox } from "../../support/e2b.ts";
import { outside, useOutsideHosts } from "../../support/outside-hosts.ts";

useE2b();
useOutsideHosts();

const unknownId = "izzzzzzzzzzzzzzzzzzzz";
const { address: one, otherAddress: two, block, privateAddress } = outside;

/** Whether an address answers a request of a sandbox: what is refused fails at once or never answers. */
async function reaches(sandbox: Sandbox, address: string, ...more: string[]): Promise<boolean> {
  const { stdout } = await sandbox.commands.run(`curl -sS -m 2 ${more.join(" ")} http://${address}/ 2>/dev/null || true`);
  return stdout === `from ${outside.seenAs}`;
}

/** Which of the two outside hosts a sandbox reaches. */
const reachesBoth = async (sandbox: Sandbox) => Promise.all([reaches(sandbox, one), reaches(sandbox, two)]);

describe.concurrent("what a sandbox may reach", () => {
  test("by default the internet, never a private address", async () => {
    await using own = await ownSandbox();
    expect(await reachesBoth(own)).toEqual([true, true]);
    expect(await reaches(own, privateAddress)).toBe(false);
  });

  test("nothing when internet access is off, also after a pause", async () => {
    await using own = await ownSandbox({ allowInternetAccess: false });
    expect((await own.getInfo()).allowInternetAccess).toBe(false);
    expect(await reachesBoth(own)).toEqual([false, false]);
    await own.pause();
    await own.connect();
    expect(await reachesBoth(own)).toEqual([false, false]);
    expect(await output(own, "echo commands work")).toBe("commands work");
  });

  test.each([
    ["one is denied", { denyOut: [one] }, [false, true]],
    ["a block is denied", { denyOut: [block] }, [false, false]],
    ["all but one", { denyOut: [ALL_TRAFFIC], allowOut: [two] }, [false, true]],
    ["allowed wins over denied", { denyOut: [one, two], allowOut: [one] }, [true, false]],
    ["a private address cannot be allowed", { allowOut: [privateAddress] }, [true, true]],
  ] as const)("%s", async (_what, network, expected) => {
    await using own = await ownSandbox({ network: { ...network } as never });
    expect(await reachesBoth(own)).toEqual(expected);
    expect(await reaches(own, privateAddress)).toBe(false);
    expect((await own.getInfo()).network).toMatchObject(network);
  });

  test("selectors may be functions", async () => {
    await using own = await ownSandbox({ network: { denyOut: ({ allTraffic }) => [allTraffic], allowOut: () => [one] } });
    expect(await reachesBoth(own)).toEqual([true, false]);
  });

  test("all but a domain: another name, or none, is refused", async () => {
    await using own = await ownSandbox({ network: { denyOut: [ALL_TRAFFIC], allowOut: ["*.allowed.example"] } });
    expect(await reaches(own, one)).toBe(false);
    expect(await reaches(own, one, "-H 'Host: other.example'")).toBe(false);
    expect((await own.getInfo()).network?.allowOut).toEqual(["*.allowed.example"]);
  });

  test("children and sandboxes from snapshots", async () => {
    await using own = await ownSandbox({ network: { denyOut: [one] } });
    const [child] = await own.fork();
    if (!(child instanceof Sandbox)) throw child ?? new Error("no child");
    await using forked = killedAtEnd(child);
    expect(await reachesBoth(forked)).toEqual([false, true]);
  });

  test.each([
    [{ denyOut: ["not an address"] }, "not an address"],
    [{ denyOut: ["example.com"] }, "example.com"],
    [{ allowOut: ["1.2.3.4/33"] }, "1.2.3.4/33"],
    [{ allowOut: ["example.com"] }, "0.0.0.0/0"],
    [{ rules: { "api.example.com": [{ transform: { headers: { host: "b" } } }] } }, "rules"],
    [{ egressProxy: { address: "proxy.example.com" } }, "egressProxy"],
    [{ egressProxy: { address: `${privateAddress}:1080` } }, privateAddress],
    [{ egressProxy: { address: "127.0.0.1:1080" } }, "127.0.0.1"],
    [{ egressProxy: { address: "proxy.invalid:1080" } }, "proxy.invalid"],
    [{ egressProxy: { address: "192.0.2.1:1080", password: "secret" } }, "username"],
    [{ httpsPorts: [8443] }, "httpsPorts"],
  ])("%j is refused by name", async (network, named) => {
    const error = await failureOf(Sandbox.create({ network }));
    expect(error).toMatchObject({ statusCode: 400, message: expect.stringContaining(named) });
  });
});

describe("a proxy of one's own", () => {
  const sandbox = useE2bSandbox();
  const { proxyAddress, proxyPort, passwordProxyPort, proxyCredentials, nameForProxies } = outside;
  const open = { address: `${proxyAddress}:${proxyPort}` };
  const withPassword = { address: `${proxyAddress}:${passwordProxyPort}`, ...proxyCredentials };

  /** Who an address sees, or nothing. */
  const seenBy = async (from: Sandbox, address: string, ...more: string[]) =>
    output(from, `curl -sS -m 5 ${more.join(" ")} http://${address}/ 2>/dev/null || true`);
  const direct = `from ${outside.seenAs}`;
  const viaProxy = `from ${proxyAddress}`;

  test("carries connections from the first moment on, over a pause, and those of children; its password is shown to nobody", async () => {
    await using own = await ownSandbox({ network: { egressProxy: withPassword } });
    expect(await seenBy(own, one)).toBe(viaProxy);
    const { network } = await own.getInfo();
    expect(network?.egressProxy).toEqual({ address: withPassword.address, username: withPassword.username });
    expect(await (await api("GET", `/v1/sandboxes/${own.sandboxId}`)).text()).not.toContain(withPassword.password);
    await own.pause();
    await own.connect();
    expect(await seenBy(own, two)).toBe(viaProxy);
    const [child] = await own.fork();
    if (!(child instanceof Sandbox)) throw child ?? new Error("no child");
    await using forked = killedAtEnd(child);
    expect(await seenBy(forked, one)).toBe(viaProxy);
  });

  test("is set and cleared while the sandbox runs, and leaves what is allowed as it is", async () => {
    expect(await seenBy(sandbox(), one)).toBe(direct);
    await sandbox().updateNetwork({ egressProxy: open, denyOut: [two] });
    expect([await seenBy(sandbox(), one), await seenBy(sandbox(), two)]).toEqual([viaProxy, ""]);
    await sandbox().updateNetwork({});
    expect(await seenBy(sandbox(), one)).toBe(direct);
    expect((await sandbox().getInfo()).network?.egressProxy).toBeUndefined();
  });

  test("resolves the names that decide", async () => {
    await sandbox().updateNetwork({ egressProxy: open, denyOut: [ALL_TRAFFIC], allowOut: [nameForProxies] });
    expect(await seenBy(sandbox(), two, `-H 'Host: ${nameForProxies}'`)).toBe(viaProxy);
    expect(await seenBy(sandbox(), two, "-H 'Host: other.example'")).toContain("does not allow other.example");
  });

  test.each([
    ["does not take the password", { ...withPassword, password: "wrong" }],
    ["is not there", { address: `${proxyAddress}:9` }],
  ])("that %s lets nothing out", async (_why, egressProxy) => {
    await sandbox().updateNetwork({ egressProxy });
    expect(await seenBy(sandbox(), one)).toBe("");
  });
});

describe("a change while it runs", () => {
  const sandbox = useE2bSandbox();

  test("replaces everything; what is left out is cleared", async () => {
    await sandbox().updateNetwork({ denyOut: [one] });
    expect(await reachesBoth(sandbox())).toEqual([false, true]);
    await sandbox().updateNetwork({ allowOut: [one], denyOut: [ALL_TRAFFIC] });
    expect(await reachesBoth(sandbox())).toEqual([true, false]);
    await sandbox().updateNetwork({ allowInternetAccess: false });
    expect(await reachesBoth(sandbox())).toEqual([false, false]);
    await Sandbox.updateNetwork(sandbox().sandboxId, {});
    expect(await reachesBoth(sandbox())).toEqual([true, true]);
  });

  test("ends connections that are now denied", async () => {
    const script = `python3 -c "
import socket, time
s = socket.create_connection(('${one}', 80)); print('open', flush=True); s.settimeout(60)
for _ in range(200):
    s.sendall(b'GET / HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'); s.recv(1000); time.sleep(0.2)
"`;
    const talk = await sandbox().commands.run(script, { background: true, timeoutMs: 0 });
    await until("the connection", () => talk.stdout.includes("open"));
    const ended = failureOf(talk.wait());
    await sandbox().updateNetwork({ denyOut: [one] });
    expect((await ended).name).toBe("CommandExitError");
    await sandbox().updateNetwork({});
  });

  test("that cannot be is refused and leaves what was", async () => {
    await sandbox().updateNetwork({ denyOut: [one] });
    expect(await failureOf(sandbox().updateNetwork({ denyOut: ["nonsense"] }))).toMatchObject({ statusCode: 400 });
    expect(await reachesBoth(sandbox())).toEqual([false, true]);
    await sandbox().updateNetwork({});
  });

  test("of one that never was", async () => {
    await expect(Sandbox.updateNetwork(unknownId, {})).rejects.toBeInstanceOf(SandboxNotFoundError);
  });
});

describe("ports of a sandbox", () => {
  const sandbox = useE2bSandbox();
  const port = 8_000;
  /** An answer that says how the request arrived; on one address of the guest only. */
  const serverAt = (host: string, on: number) => `python3 -c "
import http.server, json
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        body = json.dumps({'path': self.path, 'host': self.headers['Host'], 'headers': sorted(k.lower() for k in self.headers.keys())}).encode()
        self.send_response(200); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body)
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        self.send_response(201); self.send_header('Content-Length', str(len(body))); self.end_headers(); self.wfile.write(body[::-1])
    def log_message(self, *args): pass
http.server.ThreadingHTTPServer(('${host}', ${on}), H).serve_forever()"`;

  const serve = async (to: Sandbox, host = "0.0.0.0", on = port) => {
    await to.commands.run(serverAt(host, on), { background: true, timeoutMs: 0 });
    await until(
      "the server",
      async () => (await output(to, `curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1:${on}/ || true`)) === "200",
    );
  };

  beforeAll(async () => {
    await serve(sandbox());
  });

  test("are reached by headers, without any token", async () => {
    const answer = await toPort(sandbox().sandboxId, port, "/some/path?q=1");
    expect(answer.status).toBe(200);
    expect(await answer.json()).toMatchObject({ path: "/some/path?q=1" });
  });

  test("are reached by the name of the host", async () => {
    expect(await byHost(`${port}-${sandbox().sandboxId}.roost.example`, "/by-host")).toMatchObject({
      status: 200,
      body: expect.objectContaining({ path: "/by-host" }),
    });
    expect(await byHost(sandbox().getHost(port), "/")).toMatchObject({ status: 200 });
  });

  test("get bodies as they are", async () => {
    const answer = await toPort(sandbox().sandboxId, port, "/", { method: "POST", body: "abcdef" });
    expect([answer.status, await answer.text()]).toEqual([201, "fedcba"]);
  });

  test("do not get the sandbox's own token", async () => {
    const answer = await toPort(sandbox().sandboxId, port, "/", {
      headers: { "x-access-token": "secret", "x-api-key": "secret", "x-own": "1" },
    });
    const { headers } = (await answer.json()) as { headers: string[] };
    expect(headers).toContain("x-own");
    expect(headers).not.toContain("x-access-token");
  });

  test("are reached also when a server listens on localhost only", async () => {
    await serve(sandbox(), "127.0.0.1", 8_001);
    await until("the port", async () => (await toPort(sandbox().sandboxId, 8_001)).status === 200);
  });

  test("that are closed say so", async () => {
    const answer = await toPort(sandbox().sandboxId, 9_999);
    expect([answer.status, await answer.json()]).toEqual([
      502,
      { sandboxId: sandbox().sandboxId, message: "The sandbox is running but port is not open", port: 9_999, code: 502 },
    ]);
  });

  test("of sandboxes that are not there say so", async () => {
    const answer = await toPort(unknownId, port);
    expect([answer.status, await answer.json()]).toEqual([502, { sandboxId: unknownId, message: "The sandbox was not found", code: 502 }]);
    await using own = await ownSandbox();
    await own.kill();
    expect((await toPort(own.sandboxId, port)).status).toBe(502);
  });

  test("show a page to people", async () => {
    const answer = await toPort(sandbox().sandboxId, 9_999, "/", { headers: { "user-agent": "Mozilla/5.0 (X11)", accept: "text/html" } });
    expect(answer.status).toBe(502);
    expect(answer.headers.get("content-type")).toContain("text/html");
    expect(await answer.text()).toContain("not open");
  });

  test.each(["0", "65536", "http", "-1", "8000x"])("%j is no port", async (bad) => {
    const answer = await fetch(new URL("/", process.env["E2B_SANDBOX_URL"]), {
      headers: { "e2b-sandbox-id": sandbox().sandboxId, "e2b-sandbox-port": bad },
    });
    expect(answer.status).toBe(400);
    expect(await answer.json()).toMatchObject({ message: expect.any(String) });
  });

  test("need the traffic token where they are not public", async () => {
    await using own = await ownSandbox({ network: { allowPublicTraffic: false } });
    const { trafficAccessToken = "" } = own;
    expect(trafficAccessToken).not.toBe("");
    await serve(own);
    expect((await toPort(own.sandboxId, port)).status).toBe(403);
    expect((await toPort(own.sandboxId, port, "/", { headers: { "e2b-traffic-access-token": "wrong" } })).status).toBe(403);
    expect((await toPort(own.sandboxId, port, "/", { headers: { "e2b-traffic-access-token": trafficAccessToken } })).status).toBe(200);
    expect((await own.getInfo()).network?.allowPublicTraffic).toBe(false);
    expect((await Sandbox.connect(own.sandboxId)).trafficAccessToken).toBe(trafficAccessToken);
  });

  test("see the host name they were told to be asked for", async () => {
    await using own = await ownSandbox({ network: { maskRequestHost: "app.example:${PORT}" } });
    await serve(own);
    const answer = await toPort(own.sandboxId, port);
    expect(await answer.json()).toMatchObject({ host: `app.example:${port}`, headers: expect.arrayContaining(["x-forwarded-host"]) });
    expect((await own.getInfo()).network?.maskRequestHost).toBe("app.example:${PORT}");
  });

  test("wake a sandbox that resumes by itself", async () => {
    await using own = await ownSandbox({ timeoutMs: 600_000, lifecycle: { onTimeout: "pause", autoResume: true } });
    await serve(own);
    await own.pause();
    expect((await toPort(own.sandboxId, port)).status).toBe(200);
    expect((await own.getInfo()).state).toBe("running");
  });

  test("of a paused one that does not are not reached", async () => {
    await using own = await ownSandbox();
    await own.pause();
    const answer = await toPort(own.sandboxId, port);
    expect(answer.status).toBeGreaterThanOrEqual(400);
    expect((await own.getInfo()).state).toBe("paused");
  });

  test("web sockets pass", async () => {
    const script = `python3 -c "
import socket
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(('0.0.0.0', 8002)); s.listen(5)
while True:
    c, _ = s.accept(); head = b''
    while b'\\r\\n\\r\\n' not in head:
        part = c.recv(1000)
        if not part: break
        head += part
    if b'upgrade: websocket' not in head.lower(): c.close(); continue
    c.sendall(b'HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n')
    while True:
        data = c.recv(1000)
        if not data: break
        c.sendall(data[::-1])
    c.close()
"`;
    await sandbox().commands.run(script, { background: true, timeoutMs: 0 });
    await until("the server", async () => (await output(sandbox(), "ss -ltn | grep -c ':8002 ' || true")) === "1");
    const echoed = await upgraded(sandbox().sandboxId, 8_002, "hello");
    expect(echoed).toBe("olleh");
  });

  test("the platform's own paths are not captured", async () => {
    expect((await api("GET", "/v2/sandboxes")).status).toBe(200);
    expect((await fetch(new URL("/health", process.env["E2B_API_URL"]))).ok).toBe(true);
  });
});

async function byHost(host: string, path: string): Promise<{ status: number | undefined; body: unknown }> {
  const { hostname, port } = new URL(process.env["E2B_SANDBOX_URL"] ?? "");
  return new Promise((resolve, reject) => {
    const asking = request({ hostname, port, path, headers: { host } }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => void (text += chunk));
      response.on("end", () => resolve({ status: response.statusCode, body: JSON.parse(text) as unknown }));
      response.on("error", reject);
    });
    asking.on("error", reject).end();
  });
}

/** What a server answers to `text` after an upgrade. */
async function upgraded(sandboxId: string, to: number, text: string): Promise<string> {
  const { hostname, port } = new URL(process.env["E2B_SANDBOX_URL"] ?? "");
  return new Promise((resolve, reject) => {
    const headers = { connection: "Upgrade", upgrade: "websocket", "e2b-sandbox-id": sandboxId, "e2b-sandbox-port": String(to) };
    const asking = request({ hostname, port, path: "/socket", headers });
    asking.on("upgrade", (_response, socket) => {
      socket.once("data", (data: Buffer) => {
        socket.destroy();
        resolve(data.toString());
      });
      socket.write(text);
    });
    asking.on("response", (response) => reject(new Error(`answered ${response.statusCode} instead of an upgrade`)));
    asking.on("error", reject).end();
  });
}
