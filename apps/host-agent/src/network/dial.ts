import { connect, type Socket } from "node:net";

import { DeadlineError } from "@roost/kit";

import type { DialOptions } from "./network.ts";

/** A TCP connection, or the reason there is none: the socket's error, a `DeadlineError`, or the signal's reason. */
export async function dialTcp(host: string, port: number, options: DialOptions & { readonly allowHalfOpen?: boolean }): Promise<Socket> {
  options.signal?.throwIfAborted();
  return new Promise((resolve, reject) => {
    const socket = connect({ host, port, noDelay: true, allowHalfOpen: options.allowHalfOpen ?? false });
    const settle = (error?: unknown) => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
      socket.removeListener("error", settle);
      socket.removeListener("connect", onConnect);
      // For good: one that breaks before its new owner listens must not end the process. Owners see it by `close`.
      socket.on("error", () => undefined);
      if (error === undefined) return resolve(socket);
      socket.destroy();
      reject(error);
    };
    const onConnect = () => settle();
    const onAbort = () => settle(options.signal?.reason);
    const timer = setTimeout(() => settle(new DeadlineError(`a connection to port ${port}`, options.timeoutMs)), options.timeoutMs);
    options.signal?.addEventListener("abort", onAbort, { once: true });
    socket.once("error", settle);
    socket.once("connect", onConnect);
  });
}

/** Time for one of several addresses to answer in `ms` */
const oneOfTimeoutMs = 10_000;
/** Addresses of a name that are tried */
const oneOfCountMax = 3;

/** A connection, which may be half closed, to the first of several addresses that answers; rejects as the last one did. */
export async function dialOneOf(addresses: readonly string[], port: number, signal: AbortSignal): Promise<Socket> {
  let failure: unknown;
  for (const address of addresses.slice(0, oneOfCountMax)) {
    try {
      return await dialTcp(address, port, { timeoutMs: oneOfTimeoutMs, signal, allowHalfOpen: true });
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
    }
  }
  throw failure;
}
