import type { Socket } from "node:net";

import type { EgressProxy } from "@roost/contract";
import { DeadlineError } from "@roost/kit";

import { parseAddress } from "../network/address-block.ts";
import { dialOneOf } from "../network/dial.ts";
import { readServerName } from "./client-hello.ts";
import { connectThrough, type ProxyAddresses } from "./egress-proxy.ts";
import type { HeadReading } from "./head-reading.ts";
import { readHttpHost } from "./http-head.ts";
import { asItIs, endWith, Refusal, type RelayOpening, type RelayTarget } from "./relay.ts";

export type NamedProtocol = "http" | "tls";

/** Longest beginning of a connection in `bytes` that is read for its name: more than a ClientHello can have */
const headBytesMax = 32 * 1024;
/** Pieces in which that may come: each is read with all that came before, and a guest can send one byte at a time */
const headPiecesMax = 64;
/** Time a guest has to say the name in `ms` */
const headTimeoutMs = 10_000;
/** Time it has in `ms` where it may also go on without one: some wait for their server's first word */
const peekTimeoutMs = 3_000;

const protocols: Record<NamedProtocol, { readonly port: number; readonly read: (bytes: Buffer) => HeadReading }> = {
  http: { port: 80, read: readHttpHost },
  tls: { port: 443, read: readServerName },
};

export interface NamedConnectionDependencies {
  readonly allowsName: (name: string) => boolean;
  readonly findAddresses: (name: string) => Promise<readonly string[]>;
  readonly proxy: () => EgressProxy | null;
  readonly proxyAddresses: ProxyAddresses;
  /** For a name whose TLS is to be opened; undefined: it is not */
  readonly intercept: (name: string, head: Buffer) => RelayOpening | undefined;
}

/** Reads the name that a guest's connection is for, and connects to its server: directly, or through a proxy, which is told the name. */
export async function openNamed(
  guest: Socket,
  protocol: NamedProtocol,
  deps: NamedConnectionDependencies,
  signal: AbortSignal,
): Promise<RelayOpening> {
  const { port, read } = protocols[protocol];
  const { name, head } = await readHead(guest, read);
  if (!deps.allowsName(name)) throw new Refusal(`the network policy of this sandbox does not allow ${name}`);
  const intercepted = protocol === "tls" ? deps.intercept(name, head) : undefined;
  if (intercepted !== undefined) return intercepted;
  const { target, server } = await connectToNamed(name, port, deps, signal);
  return asItIs(guest, server, { ...target, ...(protocol === "tls" && { tls: { name, isOpened: false } }) }, head);
}

/** Connects to the server of a name, directly or through the proxy. Rejects with a `Refusal`. */
export async function connectToNamed(
  name: string,
  port: number,
  deps: Pick<NamedConnectionDependencies, "findAddresses" | "proxy" | "proxyAddresses">,
  signal: AbortSignal,
): Promise<{ readonly target: RelayTarget; readonly server: Socket }> {
  const proxy = deps.proxy();
  if (proxy === null) {
    const server = await connectTo(name, port, deps, signal);
    return { target: { name, address: parseAddress(server.remoteAddress ?? ""), proxy }, server };
  }
  const server = await connectThrough(proxy, { host: name, port }, deps.proxyAddresses, signal).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new Refusal(`${name} could not be connected to through the egress proxy of this sandbox`, "502 Bad Gateway", { cause: error });
  });
  return { target: { name, address: undefined, proxy }, server };
}

/** Reads until the name is known; `head` is all that was read. Rejects with a `Refusal`. */
async function readHead(guest: Socket, read: (bytes: Buffer) => HeadReading): Promise<{ readonly name: string; readonly head: Buffer }> {
  const { outcome, head } = await tryHead(guest, read, headTimeoutMs);
  if (outcome instanceof Error) throw outcome;
  return { name: outcome, head };
}

/** The same for a connection that goes on without a name, too: it may speak something else, or wait for its server to begin. */
export async function peekName(
  guest: Socket,
  read: (bytes: Buffer) => HeadReading,
): Promise<{ readonly name: string | undefined; readonly head: Buffer }> {
  const { outcome, head } = await tryHead(guest, read, peekTimeoutMs);
  return { name: outcome instanceof Error ? undefined : outcome, head };
}

/** The name, or why there is none. */
async function tryHead(
  guest: Socket,
  read: (bytes: Buffer) => HeadReading,
  timeoutMs: number,
): Promise<{ readonly outcome: string | Error; readonly head: Buffer }> {
  let head = Buffer.alloc(0);
  let pieces = 0;
  return new Promise((resolve) => {
    const settle = (outcome: { readonly name: string } | Error) => {
      clearTimeout(timer);
      guest.pause();
      guest.off("data", onData).off("end", onEnd).off("close", onEnd);
      resolve({ outcome: outcome instanceof Error ? outcome : outcome.name, head });
    };
    const onData = (chunk: Buffer) => {
      head = Buffer.concat([head, chunk]);
      pieces += 1;
      const reading = read(head);
      if (reading.kind === "name") settle(reading);
      else if (reading.kind === "none")
        settle(new Refusal(`this sandbox may reach names only, and the connection was refused: ${reading.why}`));
      else if (head.length > headBytesMax || pieces >= headPiecesMax)
        settle(new Refusal("the connection does not say which name it is for"));
    };
    const onEnd = () => settle(new Refusal("the connection ended before it said which name it is for"));
    const timer = setTimeout(() => settle(new DeadlineError("the name of a connection", timeoutMs)), timeoutMs);
    guest.on("data", onData).on("end", onEnd).on("close", onEnd);
    guest.resume();
  });
}

async function connectTo(
  name: string,
  port: number,
  deps: Pick<NamedConnectionDependencies, "findAddresses">,
  signal: AbortSignal,
): Promise<Socket> {
  const addresses = await deps.findAddresses(name).catch((error: unknown) => {
    throw new Refusal(`${name} could not be resolved`, "502 Bad Gateway", { cause: error });
  });
  if (addresses.length === 0) throw new Refusal(`no sandbox can reach the addresses of ${name}`);
  return dialOneOf(addresses, port, signal).catch((error: unknown) => {
    signal.throwIfAborted();
    throw new Refusal(`${name} could not be connected to`, "502 Bad Gateway", { cause: error });
  });
}

/** TLS 1.2, 7.2: a fatal alert `access_denied`, which the guest's library names in its error */
const accessDenied = Buffer.from([21, 3, 3, 0, 2, 2, 49]);

/** Tells the guest as far as its protocol can, and closes. */
export function refuseNamed(guest: Socket, protocol: NamedProtocol, error: unknown): void {
  if (!(error instanceof Refusal) || (protocol === "tls" && error.status !== "403 Forbidden")) {
    guest.resetAndDestroy();
    return;
  }
  const text = `${error.message}\n`;
  const answer = `HTTP/1.1 ${error.status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`;
  endWith(guest, protocol === "tls" ? accessDenied : answer);
}
