import { createHash } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { gzipSync } from "node:zlib";

import { createClient, Code, ConnectError } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { guestAgentPort } from "@roost/contract";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { Process, Signal } from "@roost/contract/gen/process/process_pb.js";
import { MiB } from "@roost/kit";
import { afterAll, beforeAll, describe, expect, test } from "vitest";

import { startRealGuest, whyNoRealGuest, type RealGuest } from "../testing/real-guest.ts";
import { World } from "../testing/world.ts";

/** The data plane with the real guest agent, spoken to as the ecosystem's SDKs do: Connect in JSON, one address, the sandbox in headers. */

const why = whyNoRealGuest();

describe.skipIf(why !== undefined)(`with the real guest agent${why === undefined ? "" : ` (skipped: ${why})`}`, () => {
  let guest: RealGuest;
  let world: World;
  let id: string;
  let token: string;
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), "roost-data-plane-"));
    guest = await startRealGuest();
    world = await World.start({ guestPort: guest.port });
    ({ id } = await world.createSandbox());
    token = world.host.sandboxes.get(id)?.spec?.accessToken ?? "";
    // What the host does at a sandbox's start
    const init = await fetch(`http://127.0.0.1:${guest.port}/init`, { method: "POST", body: JSON.stringify({ accessToken: token }) });
    expect(init.status).toBe(204);
  }, 60_000);
  afterAll(async () => {
    await world[Symbol.asyncDispose]();
    await guest[Symbol.asyncDispose]();
    await rm(folder, { recursive: true, force: true });
  });

  const routing = () => ({ "e2b-sandbox-id": id, "e2b-sandbox-port": String(guestAgentPort) });
  const headers = () => ({ ...routing(), "x-access-token": token });
  const transport = () => createConnectTransport({ baseUrl: world.url, httpVersion: "1.1", useBinaryFormat: false });
  const processes = () => createClient(Process, transport());
  const files = (query: Record<string, string>) => `${world.url}/files?${new URLSearchParams(query).toString()}`;

  test("/health needs no token, everything else does", async () => {
    expect((await fetch(`${world.url}/health`, { headers: routing() })).status).toBe(204);
    const answer = await fetch(`${world.url}/metrics`, { headers: routing() });
    expect(answer.status).toBe(401);
    expect(await answer.json()).toEqual({ code: 401, message: "invalid access token" });
    expect((await fetch(`${world.url}/metrics`, { headers: headers() })).status).toBe(200);
    const refused = await processes()
      .list({}, { headers: routing() })
      .catch((error: unknown) => ConnectError.from(error));
    expect(refused).toMatchObject({ code: Code.Unauthenticated });
  });

  test("a command with its streams, and the guest's errors", async () => {
    let stdout = "";
    const options = { headers: { ...headers(), authorization: `Basic ${Buffer.from("root:").toString("base64")}` } };
    for await (const { event } of processes().start({ process: { cmd: "sh", args: ["-c", "echo one; sleep 0.2; echo two"] } }, options)) {
      const data = event?.event;
      if (data?.case === "data" && data.value.output.case === "stdout") stdout += Buffer.from(data.value.output.value).toString();
    }
    expect(stdout).toBe("one\ntwo\n");
    const missing = createClient(Filesystem, transport()).stat({ path: "/no/such/file" }, options);
    await expect(missing).rejects.toMatchObject({ code: Code.NotFound });
  });

  test("files: up and down, large, compressed, in part", { timeout: 120_000 }, async () => {
    const path = join(folder, "transferred");
    const user = { username: "root" };
    const body = Buffer.alloc(48 * MiB, "0123456789abcdef");
    const put = async (content: Buffer, more: Record<string, string> = {}) =>
      fetch(files({ path, ...user }), {
        method: "POST",
        headers: { ...headers(), "content-type": "application/octet-stream", ...more },
        body: new Uint8Array(content),
      });
    expect((await put(body)).status).toBe(200);
    const read = await fetch(files({ path, ...user }), { headers: { ...headers(), "accept-encoding": "identity" } });
    expect(
      createHash("sha256")
        .update(new Uint8Array(await read.arrayBuffer()))
        .digest("hex"),
    ).toBe(createHash("sha256").update(body).digest("hex"));
    const range = await fetch(files({ path, ...user }), { headers: { ...headers(), range: "bytes=16-31" } });
    expect([range.status, await range.text()]).toEqual([206, "0123456789abcdef"]);
    expect((await put(gzipSync("compressed"), { "content-encoding": "gzip" })).status).toBe(200);
    expect(await (await fetch(files({ path, ...user }), { headers: headers() })).text()).toBe("compressed");
    const form = new FormData();
    form.append("file", new Blob(["from a form"]), path);
    expect((await fetch(files(user), { method: "POST", headers: headers(), body: form })).status).toBe(200);
    expect(await (await fetch(files({ path, ...user }), { headers: headers() })).text()).toBe("from a form");
    const unknown = await fetch(files({ path: "/no/such", ...user }), { headers: headers() });
    expect(unknown.status).toBe(404);
    expect(await unknown.json()).toMatchObject({ code: 404 });
  });

  test("signed URLs without a sandbox: right, late, forged", async () => {
    const path = join(folder, "signed");
    const signed = (operation: string, expiration?: number) => {
      const parts = [path, operation, "root", token, ...(expiration === undefined ? [] : [String(expiration)])];
      const signature = `v1_${createHash("sha256").update(parts.join(":")).digest("base64").replaceAll("=", "")}`;
      return files({
        path,
        username: "root",
        signature,
        ...(expiration === undefined ? {} : { signature_expiration: String(expiration) }),
      });
    };
    const form = new FormData();
    form.append("file", new Blob(["signed"]), "ignored");
    expect((await fetch(signed("write"), { method: "POST", body: form })).status).toBe(200);
    expect(await (await fetch(signed("read"))).text()).toBe("signed");
    expect(await (await fetch(signed("read", Math.floor(Date.now() / 1000) + 60))).text()).toBe("signed");
    const late = await fetch(signed("read", 1));
    expect([late.status, await late.json()]).toEqual([401, { code: 401, message: "signature is already expired" }]);
    const forged = await fetch(signed("write"));
    expect([forged.status, await forged.json()]).toEqual([401, { code: 401, message: "invalid signature" }]);
  });

  test("a web page of any origin may call, and its browser hears that when it asks first", async () => {
    const asked = {
      origin: "https://page.example",
      "access-control-request-method": "POST",
      "access-control-request-headers": "x-access-token",
    };
    const byHost = { host: `${guestAgentPort}-${id}.example.org` };
    const preflight = await fetch(`${world.url}/process.Process/List`, {
      method: "OPTIONS",
      headers: { ...asked, ...routing(), ...byHost },
    });
    expect(preflight.status).toBe(204);
    expect(preflight.headers.get("access-control-allow-origin")).toBe("*");
    expect(preflight.headers.get("access-control-allow-headers")).toBe("x-access-token");
  });

  test("what is between the guest agent and its host is not there", async () => {
    for (const path of ["/init", "/prepare", "/logs", "/freeze", "/upgrade"]) {
      const answer = await fetch(world.url + path, { method: "POST", headers: headers(), body: "{}" });
      expect(answer.status, path).toBe(404);
    }
  });

  test("1,000 commands' streams at once, and /health answers meanwhile", { timeout: 120_000 }, async () => {
    const following = processes();
    const pids: number[] = [];
    const options = { headers: { ...headers(), authorization: `Basic ${Buffer.from("root:").toString("base64")}` } };
    const first = following.start({ process: { cmd: "sleep", args: ["60"] } }, options)[Symbol.asyncIterator]();
    const { value } = await first.next();
    const pid = value?.event?.event.case === "start" ? value.event.event.value.pid : 0;
    const streams = Array.from({ length: 999 }, async () => {
      for await (const { event } of following.connect({ process: { selector: { case: "pid", value: pid } } }, options)) {
        if (event?.event.case === "start") pids.push(event.event.value.pid);
      }
    });
    for (const stream of streams) stream.catch(() => undefined);
    await expect.poll(() => pids.length, { timeout: 60_000 }).toBe(999);
    expect((await fetch(`${world.url}/health`, { headers: routing() })).status).toBe(204);
    await following.sendSignal({ process: { selector: { case: "pid", value: pid } }, signal: Signal.SIGKILL }, { headers: headers() });
    await Promise.all(streams);
  });
});
