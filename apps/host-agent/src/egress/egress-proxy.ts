import { request } from "node:http";
import type { Socket } from "node:net";
import { Duplex } from "node:stream";

import { parseProxyAddress, PlatformError, type EgressProxy } from "@roost/contract";
import { must, withDeadline } from "@roost/kit";
import { SocksClient } from "socks";

import { dialOneOf } from "../network/dial.ts";
import type { PublicAddresses } from "./public-addresses.ts";

/** Time in `ms` from the first byte to a proxy until it says that the destination is connected */
const handshakeTimeoutMs = 30_000;

/** Where a proxy is to connect to: an address, or a name that the proxy resolves. */
export interface ProxyDestination {
  readonly host: string;
  readonly port: number;
}

/** Addresses that a proxy may have. */
export type ProxyAddresses = Pick<PublicAddresses, "find">;

/**
 * Opens a connection through a user's proxy. Its name is resolved for each connection, and what is dialled is the address that was found allowed. Bytes that come
 * right behind the proxy's answer are the first that the socket reads. Rejects when the proxy cannot be reached, refuses, talks nonsense, or takes too long; no
 * error has its credentials, nor what it sent.
 */
export async function connectThrough(
  proxy: EgressProxy,
  destination: ProxyDestination,
  addresses: ProxyAddresses,
  signal: AbortSignal,
): Promise<Socket> {
  const { host, port } = partsOf(proxy);
  const socket = await dialOneOf(await allowedAddresses(host, addresses), port, signal);
  const end = () => void socket.destroy();
  signal.addEventListener("abort", end, { once: true });
  try {
    const asked = proxy.protocol === "http" ? askByConnect(socket, proxy, destination) : askBySocks(socket, proxy, destination);
    await withDeadline("the answer of an egress proxy", handshakeTimeoutMs, asked);
    signal.throwIfAborted();
    return socket;
  } catch (error) {
    end();
    throw error;
  } finally {
    signal.removeEventListener("abort", end);
  }
}

/** Rejects with `egress_proxy_invalid` when a proxy's address is one that no connection would be opened to, or its name has none other. */
export async function checkProxy(proxy: EgressProxy, addresses: ProxyAddresses): Promise<void> {
  const { host } = partsOf(proxy);
  try {
    await allowedAddresses(host, addresses);
  } catch (error) {
    const why = error instanceof NoAddress ? error.message : `${host} does not resolve`;
    throw new PlatformError("egress_proxy_invalid", `the egress proxy is not accepted: ${why}`, { cause: error });
  }
}

class NoAddress extends Error {
  override readonly name = "NoAddress";
}

function partsOf(proxy: EgressProxy) {
  return must(parseProxyAddress(proxy.address), "the address of a proxy, which was checked before");
}

async function allowedAddresses(host: string, addresses: ProxyAddresses): Promise<readonly string[]> {
  const found = await addresses.find(host);
  if (found.length === 0) throw new NoAddress(`${host} is a private or internal address, or a name for one`);
  return found;
}

/**
 * The library reads from a stand-in that is given byte after byte, so that it never has more than the proxy's answers: what it read too much it would emit
 * later, perhaps behind what came after that. Its errors carry the password, so only their text is kept.
 */
async function askBySocks(socket: Socket, proxy: EgressProxy, destination: ProxyDestination): Promise<void> {
  const { host, port } = partsOf(proxy);
  const standIn = new Duplex({
    read: () => undefined,
    write: (chunk: Buffer, _encoding, done) => {
      socket.write(chunk);
      done();
    },
  });
  const credentials = { ...(proxy.username !== undefined && { userId: proxy.username, password: proxy.password ?? "" }) };
  const client = new SocksClient({
    command: "connect",
    destination: { ...destination },
    proxy: { host, port, type: 5, ...credentials },
    timeout: 2 * handshakeTimeoutMs, // the deadline above is the one that counts
  });
  let isSettled = false;
  const feed = () => {
    for (let byte = nextByte(socket); byte !== null; byte = isSettled ? null : nextByte(socket)) standIn.emit("data", byte);
  };
  const end = () => void standIn.destroy();
  try {
    await new Promise<void>((resolve, reject) => {
      client.on("established", () => {
        isSettled = true;
        resolve();
      });
      client.on("error", (error: Error) => {
        isSettled = true;
        reject(new Error(`the egress proxy: ${error.message}`));
      });
      client.connect(standIn);
      socket.on("readable", feed).once("end", end).once("close", end);
    });
  } finally {
    socket.off("readable", feed).off("end", end).off("close", end);
  }
}

function nextByte(socket: Socket): Buffer | null {
  return socket.read(1) as Buffer | null;
}

async function askByConnect(socket: Socket, proxy: EgressProxy, destination: ProxyDestination): Promise<void> {
  const target = `${destination.host}:${destination.port}`;
  const credentials = Buffer.from(`${proxy.username ?? ""}:${proxy.password ?? ""}`).toString("base64");
  const asking = request({
    method: "CONNECT",
    path: target,
    setHost: false,
    headers: { host: target, ...(proxy.username !== undefined && { "proxy-authorization": `Basic ${credentials}` }) },
    createConnection: () => socket,
  });
  await new Promise<void>((resolve, reject) => {
    // Only its text: the error of a malformed answer has the answer, and that may repeat what was asked
    asking.on("error", (error) => reject(new Error(`the egress proxy: ${error.message}`)));
    asking.on("connect", (response, _socket, head: Buffer) => {
      const { statusCode = 0 } = response;
      if (statusCode < 200 || statusCode > 299) return reject(new Error(`the egress proxy answered with status ${statusCode}`));
      if (head.length > 0) socket.unshift(head);
      resolve();
    });
    asking.end();
  });
}
