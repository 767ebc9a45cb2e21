import { STATUS_CODES, type IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";

import { errorCodeHeader, PlatformError, sandboxIdPattern, tunnelProtocol, type GuestTunnels } from "@roost/contract";
import { second, type Logger } from "@roost/kit";

/** Time in `ms` for a guest, or for who was refused, to take the last bytes */
const lingerMs = 30 * second;

/** A request that asks for a tunnel. */
export interface TunnelRequest {
  readonly request: IncomingMessage;
  readonly socket: Duplex;
  /** What came behind the request's head */
  readonly head: Buffer;
  /** Breaks the connection so that the other side sees that it broke */
  readonly reset: () => void;
}

/**
 * Guest tunnels by HTTP/1.1 upgrades: `GET /tunnels/<sandbox>/<port>`, 101, then the guest's bytes as they are. Refusals carry the code and the message that `GuestTunnels`
 * rejects with. Each direction goes at the pace of its reader and ends by itself; a break of one side breaks the other.
 */
export class TunnelUpgrades {
  readonly #tunnels: GuestTunnels;
  readonly #log: Logger;

  constructor(tunnels: GuestTunnels, log: Logger) {
    this.#tunnels = tunnels;
    this.#log = log;
  }

  upgrade(asked: TunnelRequest): void {
    asked.socket.on("error", () => undefined); // its `close` says all
    this.#open(asked).catch((error: unknown) => refuseUpgrade(asked.socket, this.#explained(error)));
  }

  async #open({ request, socket, head, reset }: TunnelRequest): Promise<void> {
    const { sandboxId, port } = targetOf(request);
    using waiting = whileThere(socket);
    const tunnel = await this.#tunnels.connect(sandboxId, port, waiting.signal);
    if (waiting.signal.aborted || socket.destroyed) {
      tunnel.destroy();
      socket.destroy();
      return;
    }
    socket.write(`HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ${tunnelProtocol}\r\n\r\n`);
    if (head.length > 0) tunnel.write(head);
    join(socket, tunnel, reset);
  }

  #explained(error: unknown): PlatformError {
    if (error instanceof PlatformError) return error;
    this.#log.error({ err: error }, "a tunnel failed with an error that nobody expected");
    return new PlatformError("internal", "the host agent failed; its log says why", { cause: error });
  }
}

/** A signal that aborts when the other side goes away before it was answered. What it sends meanwhile is kept for who reads next. */
function whileThere(socket: Duplex): { readonly signal: AbortSignal } & Disposable {
  const gone = new AbortController();
  const onGone = () => gone.abort(new Error("the control plane has gone"));
  const onReadable = () => void (socket.readableLength === 0 && socket.read(0)); // an end is told only to who reads
  socket.once("close", onGone);
  socket.once("end", onGone);
  socket.on("readable", onReadable);
  return {
    signal: gone.signal,
    [Symbol.dispose]: () => {
      socket.removeListener("close", onGone);
      socket.removeListener("end", onGone);
      socket.removeListener("readable", onReadable);
    },
  };
}

function targetOf({ method, url = "", headers }: IncomingMessage): { readonly sandboxId: string; readonly port: number } {
  const [, sandboxId = "", digits = ""] = /^\/tunnels\/([^/]{1,64})\/(\d{1,5})$/.exec(url) ?? [];
  const port = Number(digits);
  if (method !== "GET" || headers.upgrade !== tunnelProtocol || !sandboxIdPattern.test(sandboxId) || port < 1 || port > 65_535) {
    throw new PlatformError("request_invalid", `a tunnel is asked for by GET /tunnels/<sandbox>/<port> with "Upgrade: ${tunnelProtocol}"`);
  }
  return { sandboxId, port };
}

/** Answers an upgrade, or a request that should have been one, and closes. */
export function refuseUpgrade(socket: Duplex, error: PlatformError): void {
  if (socket.destroyed) return;
  const body = JSON.stringify(error.toBody());
  const lines = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? ""}`,
    "Connection: close",
    "Content-Type: application/json",
    `Content-Length: ${Buffer.byteLength(body)}`,
    `${errorCodeHeader}: ${error.code}`,
    ...(error.retryAfterSec === undefined ? [] : [`Retry-After: ${error.retryAfterSec}`]),
  ];
  socket.end(`${lines.join("\r\n")}\r\n\r\n${body}`);
  socket.resume(); // what still comes is not read by anyone, and must not keep the connection open
  destroySoon(socket);
}

function join(socket: Duplex, tunnel: Duplex, reset: () => void): void {
  tunnel.on("error", () => undefined); // its `close` says all
  socket.pipe(tunnel);
  tunnel.pipe(socket);
  // What the guest said to its end is the control plane's to read, however long that takes
  tunnel.once("close", () => {
    if (!tunnel.readableEnded) reset();
  });
  socket.once("close", (hadError?: boolean) => {
    if (hadError === true || !socket.readableEnded) tunnel.destroy();
    else destroySoon(tunnel);
  });
  if (tunnel.destroyed) reset();
}

function destroySoon(stream: Duplex): void {
  const timer = setTimeout(() => stream.destroy(), lingerMs).unref();
  stream.once("close", () => clearTimeout(timer));
}
