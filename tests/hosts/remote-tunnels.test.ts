import { connect as connectTcp, createServer, type AddressInfo, type Socket } from "node:net";
import type { Duplex } from "node:stream";
import { createSecureContext } from "node:tls";

import { certificateName, hostName, parseHostAddress, PlatformError, type GuestTunnels } from "@roost/contract";
import { RemoteTunnels, type HostPeer } from "@roost/control-plane";
import { HostAgentServer } from "@roost/host-agent";
import { must, poll, silentLogger } from "@roost/kit";
import { TestAuthority } from "@roost/testing";
import { afterEach, beforeEach, expect, test } from "vitest";

const hostId = "h0123456789abcdefghij";
const sandboxId = "i0123456789abcdefghij";

let authority: TestAuthority;
let address: string;
let tunnels: RemoteTunnels;
/** What the host's own tunnels do */
let onHost: GuestTunnels["connect"];
const undo: (() => unknown)[] = [];

beforeEach(async () => {
  authority = await TestAuthority.create();
  const server = await HostAgentServer.listen(
    {
      identity: await authority.identity(hostName(hostId)),
      service: {} as never,
      tunnels: { connect: (...given) => onHost(...given) },
      log: silentLogger,
    },
    "127.0.0.1",
    0,
  );
  undo.push(() => server.close());
  address = `127.0.0.1:${server.port}`;
  tunnels = await tunnelsTo(hostId);
});
afterEach(async () => {
  for (const step of undo.splice(0).reverse()) await step();
});

/** The control plane's side, expecting this host. */
async function tunnelsTo(expected: string, as = "roost://control-plane", of = authority): Promise<RemoteTunnels> {
  const { keyPem, certificatePem } = await of.identity(as);
  const secureContext = createSecureContext({ key: keyPem, cert: certificatePem, ca: authority.caPem, minVersion: "TLSv1.3" });
  const peer: HostPeer = {
    hostId: expected,
    tls: () => ({
      ...must(parseHostAddress(address), "an address"),
      secureContext,
      servername: "",
      rejectUnauthorized: true,
      checkServerIdentity: (_name, { subjectaltname }) =>
        certificateName(subjectaltname) === hostName(expected) ? undefined : new Error("another host"),
    }),
  };
  return new RemoteTunnels(peer);
}

async function guest(serve: (socket: Socket) => void): Promise<GuestTunnels["connect"]> {
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    serve(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  undo.push(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return async () =>
    new Promise((resolve) => {
      const socket = connectTcp({ host: "127.0.0.1", port }, () => resolve(socket));
      socket.on("error", () => undefined);
    });
}

async function readAll(stream: Duplex): Promise<{ text: string; isWhole: boolean }> {
  let text = "";
  let isWhole = false;
  stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  stream.on("end", () => (isWhole = true));
  await new Promise((resolve) => stream.once("close", resolve));
  return { text, isWhole };
}

test("a tunnel carries bytes both ways, also those that came with the answer, and ends as a whole", async () => {
  onHost = await guest((socket) => {
    socket.write("hello ");
    socket.pipe(socket);
  });
  const tunnel = await tunnels.connect(sandboxId, 80);
  tunnel.end("and back");
  expect(await readAll(tunnel)).toEqual({ text: "hello and back", isWhole: true });
});

test("a VM that ends is a break here, too", async () => {
  const opened: Duplex[] = [];
  const connect = await guest((socket) => void socket.write("half"));
  onHost = async (...given) => {
    const tunnel = await connect(...given);
    opened.push(tunnel);
    return tunnel;
  };
  const tunnel = await tunnels.connect(sandboxId, 80);
  const read = readAll(tunnel);
  opened[0]?.destroy();
  expect((await read).isWhole).toBe(false);
});

test.each([
  new PlatformError("sandbox_not_found", "there is no such sandbox"),
  new PlatformError("sandbox_wrong_state", "it is paused"),
  new PlatformError("guest_unreachable", "nothing listens there", { retryAfterSec: 1 }),
  new PlatformError("sandbox_busy", "too many", { retryAfterSec: 3 }),
])("what a host's tunnels refuse with arrives as it was: $code", async (error) => {
  onHost = async () => Promise.reject(error);
  const { code, message, retryAfterSec } = error;
  await expect(tunnels.connect(sandboxId, 80)).rejects.toMatchObject({ code, message, retryAfterSec });
});

test("a host that is not there, another one, and one that does not want us are unreachable", async () => {
  onHost = async () => Promise.reject(new Error("must not be asked"));
  const unreachable = { code: "host_unreachable", retryAfterSec: 5 };
  await expect((await tunnelsTo("h9999999999abcdefghij")).connect(sandboxId, 80)).rejects.toMatchObject(unreachable);
  await expect((await tunnelsTo(hostId, hostName(hostId))).connect(sandboxId, 80)).rejects.toMatchObject(unreachable);
  const stranger = await TestAuthority.create();
  await expect((await tunnelsTo(hostId, undefined, stranger)).connect(sandboxId, 80)).rejects.toMatchObject(unreachable);
  address = "127.0.0.1:1";
  await expect(tunnels.connect(sandboxId, 80)).rejects.toMatchObject(unreachable);
});

test("who gives up waiting is not kept, and neither is the host's dial", async () => {
  let dial: AbortSignal | undefined;
  onHost = async (_id, _port, signal) => {
    dial = signal;
    return new Promise(() => undefined);
  };
  const abort = new AbortController();
  const asked = tunnels.connect(sandboxId, 80, abort.signal);
  await poll({ what: "the host's dial", timeoutMs: 10_000 }, () => (dial === undefined ? undefined : true));
  abort.abort(new Error("enough"));
  await expect(asked).rejects.toThrow("enough");
  await poll({ what: "the end of the host's dial", timeoutMs: 10_000 }, () => (dial?.aborted === true ? true : undefined));
});

test("a signal that aborts later leaves an open tunnel alone", async () => {
  onHost = await guest((socket) => void socket.pipe(socket));
  const abort = new AbortController();
  const tunnel = await tunnels.connect(sandboxId, 80, abort.signal);
  abort.abort();
  tunnel.end("still open");
  expect(await readAll(tunnel)).toEqual({ text: "still open", isWhole: true });
});
