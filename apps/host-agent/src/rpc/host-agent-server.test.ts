import { X509Certificate } from "node:crypto";
import { request } from "node:http";
import { connect as connectHttp2 } from "node:http2";
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { connect as connectTls, type ConnectionOptions, type TLSSocket } from "node:tls";

import { createClient } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { PlatformError, type GuestTunnels } from "@roost/contract";
import { HostAgentService } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { poll, silentLogger } from "@roost/kit";
import { TestAuthority, type TestIdentity } from "@roost/testing";
import { afterEach, beforeAll, describe, expect, test } from "vitest";

import { HostAgentServer } from "./host-agent-server.ts";

const sandboxId = "i0123456789abcdefghij";
let authority: TestAuthority;
let controlPlane: TestIdentity;
let host: TestIdentity;
beforeAll(async () => {
  authority = await TestAuthority.create();
  controlPlane = await authority.identity("roost://control-plane");
  host = await authority.identity("roost://host/h0123456789abcdefghij");
});

const undo: (() => unknown)[] = [];
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** A guest's port: each connection to it is a tunnel. */
async function startGuest(serve: (socket: Socket) => void): Promise<{ tunnels: GuestTunnels; open: () => number }> {
  const sockets = new Set<Socket>();
  const guest = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.once("close", () => sockets.delete(socket));
    serve(socket);
  });
  await new Promise<void>((resolve) => guest.listen(0, "127.0.0.1", resolve));
  undo.push(() => {
    for (const socket of sockets) socket.destroy();
    guest.close();
  });
  const { port } = guest.address() as AddressInfo;
  const connect = async () =>
    new Promise<Duplex>((resolve, reject) => {
      const socket = connectTcp({ host: "127.0.0.1", port });
      socket.once("connect", () => resolve(socket));
      socket.on("error", reject);
    });
  return { tunnels: { connect }, open: () => sockets.size };
}

async function startServer(tunnels: GuestTunnels): Promise<HostAgentServer> {
  const service = {
    getHost: () => ({ hostId: "it" }),
    listSandboxes: () => {
      throw new Error("not asked here");
    },
  };
  const server = await HostAgentServer.listen({ identity: host, service: service as never, tunnels, log: silentLogger }, "127.0.0.1", 0);
  undo.push(() => server.close());
  return server;
}

function optionsOf(identity: TestIdentity | undefined, port: number, more: ConnectionOptions = {}): ConnectionOptions {
  return {
    host: "127.0.0.1",
    port,
    ca: authority.caPem,
    checkServerIdentity: () => undefined,
    servername: "",
    ...(identity === undefined ? {} : { key: identity.keyPem, cert: identity.certificatePem }),
    ...more,
  };
}

type Answer = { status: number; code: string | undefined; message: string };

/** Asks for a tunnel: a stream, or what was answered instead. */
async function ask(port: number, path: string, headers: Record<string, string> = { upgrade: "roost-tunnel" }): Promise<TLSSocket | Answer> {
  const socket = connectTls(optionsOf(controlPlane, port, { ALPNProtocols: ["http/1.1"] }));
  socket.on("error", () => undefined);
  undo.push(() => socket.destroy());
  return new Promise((resolve, reject) => {
    const asked = request({ path, headers: { connection: "Upgrade", host: "host", ...headers }, createConnection: () => socket });
    asked.on("error", reject);
    asked.on("upgrade", (_response, _stream, head) => {
      if (head.length > 0) socket.unshift(head);
      resolve(socket);
    });
    asked.on("response", (response) => {
      let text = "";
      response.on("data", (chunk: Buffer) => (text += chunk.toString()));
      response.on("end", () => {
        const { message } = (JSON.parse(text) as { error: { message: string } }).error;
        resolve({ status: response.statusCode ?? 0, code: response.headers["roost-error-code"] as string | undefined, message });
      });
    });
    asked.end();
  });
}

async function tunnelTo(port: number, path = `/tunnels/${sandboxId}/8080`): Promise<TLSSocket> {
  const answer = await ask(port, path);
  if ("status" in answer) throw new Error(`refused: ${JSON.stringify(answer)}`);
  return answer;
}

/** What comes until the end, and whether it was one: a break is none. */
async function readAll(stream: Duplex): Promise<{ text: string; isWhole: boolean }> {
  let text = "";
  let isWhole = false;
  stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  stream.on("end", () => (isWhole = true));
  await new Promise((resolve) => stream.once("close", resolve));
  return { text, isWhole };
}

const noTunnels: GuestTunnels = { connect: async () => Promise.reject(new PlatformError("sandbox_not_found", "there is none")) };

describe("who is served", () => {
  /** Whether anything is answered to a peer that shows this certificate. */
  async function isServed(port: number, identity: TestIdentity | undefined, more: ConnectionOptions = {}): Promise<boolean> {
    const socket = connectTls(optionsOf(identity, port, { ALPNProtocols: ["http/1.1"], ...more }));
    undo.push(() => socket.destroy());
    return new Promise((resolve) => {
      socket.on("error", () => resolve(false));
      socket.on("close", () => resolve(false));
      socket.on("data", () => resolve(true));
      socket.write("GET / HTTP/1.1\r\nhost: x\r\n\r\n");
    });
  }

  test("the control plane, and nobody else: no certificate, another host's, its own, another authority's, a past one", async () => {
    const { port } = await startServer(noTunnels);
    expect(await isServed(port, controlPlane)).toBe(true);
    expect(await isServed(port, undefined)).toBe(false);
    expect(await isServed(port, host)).toBe(false);
    expect(await isServed(port, await authority.identity("roost://host/h9999999999abcdefghij"))).toBe(false);
    expect(await isServed(port, await authority.identity("roost://control-plane/x"))).toBe(false);
    expect(await isServed(port, await authority.identity("https://control-plane"))).toBe(false);
    const stranger = await TestAuthority.create();
    expect(await isServed(port, await stranger.identity("roost://control-plane"))).toBe(false);
    expect(await isServed(port, await authority.identity("roost://control-plane", { fromMs: -60_000, toMs: -1_000 }))).toBe(false);
    expect(await isServed(port, controlPlane, { maxVersion: "TLSv1.2" })).toBe(false);
    expect(await isServed(port, controlPlane)).toBe(true);
  });

  test("a call over HTTP/2", async () => {
    const { port } = await startServer(noTunnels);
    const { host: _host, port: _port, ...nodeOptions } = optionsOf(controlPlane, port);
    const transport = createConnectTransport({ httpVersion: "2", baseUrl: `https://127.0.0.1:${port}`, nodeOptions });
    expect((await createClient(HostAgentService, transport).getHost({})).hostId).toBe("it");
    const asHost = createConnectTransport({
      httpVersion: "2",
      baseUrl: `https://127.0.0.1:${port}`,
      nodeOptions: { ...nodeOptions, key: host.keyPem, cert: host.certificatePem },
    });
    await expect(createClient(HostAgentService, asHost).getHost({}, { timeoutMs: 5_000 })).rejects.toThrow(/closed|unavailable|reset/);
  });

  test("a certificate is swapped while it serves: what is open stays, what comes sees the new one", async () => {
    const guest = await startGuest((socket) => void socket.pipe(socket));
    const server = await startServer(guest.tunnels);
    const before = await tunnelTo(server.port);
    const next = await authority.identity("roost://host/h0123456789abcdefghij");
    server.useIdentity(next);
    const after = await tunnelTo(server.port);
    const shownBy = (socket: TLSSocket) => socket.getPeerCertificate().fingerprint256;
    expect(shownBy(before)).toBe(new X509Certificate(host.certificatePem).fingerprint256);
    expect(shownBy(after)).toBe(new X509Certificate(next.certificatePem).fingerprint256);
    for (const socket of [before, after]) {
      socket.end("still here");
      expect(await readAll(socket)).toEqual({ text: "still here", isWhole: true });
    }
  });
});

describe("tunnels", () => {
  test("bytes pass both ways as they are, and each side's end by itself", async () => {
    const guest = await startGuest((socket) => {
      const got: Buffer[] = [];
      socket.on("data", (chunk: Buffer) => got.push(chunk));
      socket.on("end", () => socket.end(`got ${Buffer.concat(got).toString("hex")}`)); // answers only after the end it was told
    });
    const { port } = await startServer(guest.tunnels);
    const socket = await tunnelTo(port);
    const bytes = Buffer.from(Array.from({ length: 256 }, (_, index) => index));
    socket.end(bytes);
    expect(await readAll(socket)).toEqual({ text: `got ${bytes.toString("hex")}`, isWhole: true });
    await poll({ what: "the tunnel's end", timeoutMs: 10_000 }, () => (guest.open() === 0 ? true : undefined));
  });

  test("a break of the guest's side is a break, not an end", async () => {
    const guest = await startGuest((socket) => {
      socket.write("half of ");
      socket.once("data", () => socket.resetAndDestroy());
    });
    const { port } = await startServer(guest.tunnels);
    const socket = await tunnelTo(port);
    const read = readAll(socket);
    socket.write("go");
    expect((await read).isWhole).toBe(false);
  });

  test("a VM that ends breaks its tunnels, too: the tunnel is destroyed without an end", async () => {
    const guest = await startGuest((socket) => void socket.write("x"));
    const opened: Duplex[] = [];
    const { port } = await startServer({
      connect: async (...given) => {
        const tunnel = await guest.tunnels.connect(...given);
        opened.push(tunnel);
        return tunnel;
      },
    });
    const socket = await tunnelTo(port);
    const read = readAll(socket);
    opened[0]?.destroy();
    expect((await read).isWhole).toBe(false);
  });

  test("a control plane that goes away takes its tunnel with it", async () => {
    const guest = await startGuest((socket) => socket.resume().once("end", () => socket.end()));
    const { port } = await startServer(guest.tunnels);
    const socket = await tunnelTo(port);
    expect(guest.open()).toBe(1);
    socket.destroy();
    await poll({ what: "the end of the guest's connection", timeoutMs: 10_000 }, () => (guest.open() === 0 ? true : undefined));
  });

  test("a reader that does not read holds its guest up, and nothing grows", async () => {
    const chunk = Buffer.alloc(64 * 1024, "x");
    let written = 0;
    const guest = await startGuest((socket) => {
      const pump = () => {
        while (socket.write(chunk)) written += chunk.length;
        written += chunk.length;
      };
      socket.on("drain", pump);
      pump();
    });
    const { port } = await startServer(guest.tunnels);
    const socket = await tunnelTo(port);
    socket.pause();
    let last = -1;
    await poll({ what: "the guest to be held up", timeoutMs: 30_000, intervalMs: 300 }, () => {
      const isHeld = written === last;
      last = written;
      return isHeld ? true : undefined;
    });
    expect(written).toBeLessThan(64 * 1024 * 1024);
    const before = written;
    let read = 0;
    socket.on("data", (data: Buffer) => (read += data.length));
    socket.resume();
    await poll({ what: "the guest to go on", timeoutMs: 30_000 }, () => (written > before && read > before ? true : undefined));
  });

  test("refusals are those of the tunnels, with code, message and when to try again", async () => {
    const answers = new Map<string, unknown>([
      ["1", new PlatformError("sandbox_wrong_state", "it is paused")],
      ["2", new PlatformError("guest_unreachable", "nothing listens there", { retryAfterSec: 1 })],
      ["3", new Error("a bug, with what nobody should see")],
    ]);
    const { port } = await startServer({ connect: async (_id, guestPort) => Promise.reject(answers.get(String(guestPort))) });
    expect(await ask(port, `/tunnels/${sandboxId}/1`)).toEqual({ status: 409, code: "sandbox_wrong_state", message: "it is paused" });
    expect(await ask(port, `/tunnels/${sandboxId}/2`)).toMatchObject({ status: 502, code: "guest_unreachable" });
    const bug = (await ask(port, `/tunnels/${sandboxId}/3`)) as Answer;
    expect(bug).toMatchObject({ status: 500, code: "internal" });
    expect(bug.message).not.toContain("nobody should see");
  });

  test("what is no request for a tunnel is refused", async () => {
    let asked = 0;
    const connect = async () => {
      asked += 1;
      return Promise.reject(new Error("should not be asked"));
    };
    const { port } = await startServer({ connect });
    for (const path of [
      "/",
      `/tunnels/${sandboxId}`,
      `/tunnels/${sandboxId}/0`,
      `/tunnels/${sandboxId}/65536`,
      `/tunnels/${sandboxId}/80/x`,
      "/tunnels/../80",
      "/tunnels/UPPER/80",
      `/tunnels/${"i".repeat(41)}/80`,
    ]) {
      expect(await ask(port, path), path).toMatchObject({ status: 400, code: "request_invalid" });
    }
    expect(await ask(port, `/tunnels/${sandboxId}/80`, { upgrade: "websocket" })).toMatchObject({ code: "request_invalid" });
    expect(await ask(port, `/tunnels/${sandboxId}/80`, { connection: "close" })).toMatchObject({ code: "route_not_found" });
    expect(asked).toBe(0);
  });

  test("a dial whose control plane has gone is given up", async () => {
    let signal: AbortSignal | undefined;
    const { port } = await startServer({
      connect: async (_id, _port, given) => {
        signal = given;
        return new Promise(() => undefined);
      },
    });
    void ask(port, `/tunnels/${sandboxId}/80`).catch(() => undefined);
    await poll({ what: "the dial", timeoutMs: 10_000 }, () => (signal === undefined ? undefined : true));
    await undo.pop()?.(); // the connection
    await poll({ what: "the dial's end", timeoutMs: 10_000 }, () => (signal?.aborted === true ? true : undefined));
  });
});

test("a listener that closes cuts what is open, and can be closed twice", async () => {
  const guest = await startGuest((socket) => void socket.pipe(socket));
  const server = await startServer(guest.tunnels);
  const tunnel = readAll(await tunnelTo(server.port));
  const session = connectHttp2(`https://127.0.0.1:${server.port}`, optionsOf(controlPlane, server.port));
  session.on("error", () => undefined);
  const ended = new Promise((resolve) => session.once("close", resolve));
  await new Promise((resolve) => session.once("remoteSettings", resolve));
  await server.close();
  await server.close();
  await Promise.all([tunnel, ended]);
  await poll({ what: "the end of the guest's connection", timeoutMs: 10_000 }, () => (guest.open() === 0 ? true : undefined));
});
