import { WebSocket } from "ws";

import type { Connection, RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";
import { describe, errorOf } from "./http.ts";

/** Longest message taken from the server in `bytes`; ours sends at most 1 MiB. */
const messageBytesMax = 4 * 1024 * 1024;

/** An open WebSocket that is not read yet: `resume` it when a listener is there. A refused upgrade rejects with the server's error. */
export async function openWebSocket(connection: Connection, url: URL, options: RequestOptions): Promise<WebSocket> {
  options.signal?.throwIfAborted();
  const address = new URL(url);
  address.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const timeoutMs = options.timeoutMs ?? connection.timeoutMs;
  const socket = new WebSocket(address, {
    headers: connection.headers,
    handshakeTimeout: timeoutMs,
    maxPayload: messageBytesMax,
    perMessageDeflate: false,
  });
  await new Promise<void>((resolve, reject) => {
    const onAbort = () => {
      reject(options.signal?.reason as Error);
      socket.terminate();
    };
    options.signal?.addEventListener("abort", onAbort, { once: true });
    const forget = () => options.signal?.removeEventListener("abort", onAbort);
    socket.once("open", () => {
      forget();
      socket.pause(); // messages may come with the head; they wait until their listener is there
      resolve();
    });
    socket.once("unexpected-response", (_request, answer) => {
      forget();
      errorOf(answer).then(reject, reject);
    });
    socket.once("error", (error) => {
      forget();
      const isTimeout = error.message.includes("handshake has timed out");
      const message = isTimeout
        ? `${url.pathname} was not opened within ${timeoutMs / 1000} s`
        : `cannot reach ${url.origin}: ${describe(error)}`;
      reject(new RoostError(isTimeout ? "client_timeout" : "connection_failed", message, { cause: error }));
    });
  });
  return socket;
}
