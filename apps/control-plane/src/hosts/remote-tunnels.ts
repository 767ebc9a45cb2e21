import { request, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";
import { connect, type TLSSocket } from "node:tls";

import {
  errorBodySchema,
  errorCodeHeader,
  isErrorCode,
  PlatformError,
  tunnelPath,
  tunnelProtocol,
  type GuestTunnels,
} from "@roost/contract";
import { KiB, second } from "@roost/kit";

import type { HostPeer } from "./host-peer.ts";

/** Time for a connection, a handshake and the host's dial in `ms`: the host's own deadlines are shorter; this one is for a host that hangs */
const openTimeoutMs = 30 * second;
/** Longest refusal that is read, in `bytes` */
const refusalBytesMax = 64 * KiB;
/** Silence in `ms` after which the kernel asks whether the host is still there; ten questions, a second apart */
const keepAliveMs = 15 * second;

/** Tunnels into guests of a host on another machine: one connection each, mutual TLS, then bytes. */
export class RemoteTunnels implements GuestTunnels {
  readonly #peer: HostPeer;

  constructor(peer: HostPeer) {
    this.#peer = peer;
  }

  /** Also rejects with `host_unreachable`: nobody answers there, or somebody who is not this host. */
  async connect(sandboxId: string, port: number, signal?: AbortSignal): Promise<Duplex> {
    const deadline = AbortSignal.timeout(openTimeoutMs);
    const given = signal === undefined ? deadline : AbortSignal.any([deadline, signal]);
    try {
      return await this.#ask(await this.#open(given), tunnelPath(sandboxId, port), given);
    } catch (error) {
      signal?.throwIfAborted();
      throw error instanceof PlatformError ? error : this.#unreachable(error);
    }
  }

  /** A connection to this host and no other. */
  async #open(signal: AbortSignal): Promise<TLSSocket> {
    signal.throwIfAborted();
    return new Promise((resolve, reject) => {
      const socket = connect({ ...this.#peer.tls(), ALPNProtocols: ["http/1.1"] });
      const onAbort = () => socket.destroy(signal.reason as Error);
      signal.addEventListener("abort", onAbort, { once: true });
      socket.on("error", reject); // for good: one that breaks before its new owner listens must not end the process
      socket.once("close", () => reject(new Error("it closed the connection")));
      socket.once("secureConnect", () => {
        signal.removeEventListener("abort", onAbort);
        socket.setNoDelay(true);
        socket.setKeepAlive(true, keepAliveMs);
        resolve(socket);
      });
    });
  }

  async #ask(socket: TLSSocket, path: string, signal: AbortSignal): Promise<Duplex> {
    return new Promise((resolve, reject) => {
      const headers = { host: this.#peer.hostId, connection: "Upgrade", upgrade: tunnelProtocol };
      const asked = request({ path, headers, createConnection: () => socket });
      const onAbort = () => asked.destroy(signal.reason as Error);
      signal.addEventListener("abort", onAbort, { once: true });
      asked.on("error", reject);
      asked.once("upgrade", (_response, _stream, head) => {
        signal.removeEventListener("abort", onAbort);
        if (head.length > 0) socket.unshift(head);
        resolve(socket);
      });
      asked.once("response", (response) => {
        readText(response).then((text) => reject(this.#refusal(response, text)), reject);
      });
      asked.end();
    });
  }

  #refusal(response: IncomingMessage, text: string): PlatformError {
    const code = response.headers[errorCodeHeader];
    const body = errorBodySchema.safeParse(parseJson(text));
    if (typeof code !== "string" || !isErrorCode(code) || !body.success) {
      return this.#unreachable(new Error(`answered ${response.statusCode} without a code that is known here`));
    }
    const retryAfterSec = /^\d{1,5}$/.exec(response.headers["retry-after"] ?? "")?.[0];
    return new PlatformError(code, body.data.error.message, retryAfterSec === undefined ? {} : { retryAfterSec: Number(retryAfterSec) });
  }

  #unreachable(cause: unknown): PlatformError {
    return new PlatformError("host_unreachable", "the sandbox's host cannot be reached right now", {
      detail: `host ${this.#peer.hostId}: ${cause instanceof Error ? cause.message : String(cause)}`,
      cause,
      retryAfterSec: 5,
    });
  }
}

async function readText(response: IncomingMessage): Promise<string> {
  let text = "";
  response.setEncoding("utf8");
  for await (const chunk of response) {
    text += chunk as string;
    if (text.length > refusalBytesMax) throw new Error(`a refusal of more than ${refusalBytesMax} bytes`);
  }
  return text;
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
