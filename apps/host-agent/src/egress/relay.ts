import type { Socket } from "node:net";

import { DeadlineError, type Logger } from "@roost/kit";

import { parseAddress } from "../network/address-block.ts";
import { dialTcp } from "../network/dial.ts";
import { readServerName } from "./client-hello.ts";
import type { HeadReading } from "./head-reading.ts";
import { readHttpHost } from "./http-head.ts";

export type RelayProtocol = "http" | "tls";

/** Longest beginning of a connection in `bytes` that is read for its name: more than a ClientHello can have */
const headBytesMax = 32 * 1024;
/** Pieces in which that may come: each is read with all that came before, and a guest can send one byte at a time */
const headPiecesMax = 64;
/** Time a guest has to say the name in `ms` */
const headTimeoutMs = 10_000;
/** Time for one address of a server to answer in `ms` */
const connectTimeoutMs = 10_000;
/** Addresses of a name that are tried */
const addressesTried = 3;
/** Silence in `ms` after which the kernel asks whether the other side is still there */
const keepAliveMs = 60_000;
/** Time in `ms` for one side to take its last bytes after the other one is gone */
const lingerMs = 30_000;

const readers: Record<RelayProtocol, { readonly port: number; readonly read: (bytes: Buffer) => HeadReading }> = {
  http: { port: 80, read: readHttpHost },
  tls: { port: 443, read: readServerName },
};

export interface RelayDependencies {
  readonly allowsName: (name: string) => boolean;
  readonly findAddresses: (name: string) => Promise<readonly string[]>;
  readonly log: Logger;
}

export interface Relay {
  /** Name and address of the server; undefined until it is connected */
  readonly target: { readonly name: string; readonly address: number } | undefined;
  readonly ended: Promise<void>;
  /** Ends it at once. Idempotent. */
  end(): void;
}

/** What a connection is refused with; for the guest. */
class Refusal extends Error {
  override readonly name = "Refusal";
  readonly status: "403 Forbidden" | "502 Bad Gateway";

  constructor(message: string, status: Refusal["status"] = "403 Forbidden", options: ErrorOptions = {}) {
    super(message, options);
    this.status = status;
  }
}

/** Carries one connection of a guest, paused as it was accepted, to the server whose name it says. */
export function relay(guest: Socket, protocol: RelayProtocol, deps: RelayDependencies): Relay {
  let target: Relay["target"];
  const gone = new AbortController();
  guest.setKeepAlive(true, keepAliveMs);
  const ended = new Promise<void>((resolve) => {
    guest.once("close", () => {
      gone.abort();
      resolve();
    });
  });
  const begin = async () => {
    const { name, head } = await readHead(guest, readers[protocol].read);
    if (!deps.allowsName(name)) throw new Refusal(`the network policy of this sandbox does not allow ${name}`);
    const server = await connectTo(name, readers[protocol].port, deps, gone.signal);
    // The policy may have changed meanwhile
    if (!deps.allowsName(name)) {
      server.destroy();
      throw new Refusal(`the network policy of this sandbox does not allow ${name}`);
    }
    target = { name, address: parseAddress(server.remoteAddress ?? "") };
    join(guest, server, head);
  };
  begin().catch((error: unknown) => {
    deps.log.debug({ err: error, protocol }, "a connection of a guest was refused");
    refuse(guest, protocol, error);
  });
  return {
    get target() {
      return target;
    },
    ended,
    end: () => void guest.resetAndDestroy(),
  };
}

/** Reads until the name is known; `head` is all that was read. Rejects with a `Refusal`. */
async function readHead(guest: Socket, read: (bytes: Buffer) => HeadReading): Promise<{ readonly name: string; readonly head: Buffer }> {
  let head = Buffer.alloc(0);
  let pieces = 0;
  return new Promise((resolve, reject) => {
    const settle = (outcome: { readonly name: string } | Error) => {
      clearTimeout(timer);
      guest.pause();
      guest.off("data", onData).off("end", onEnd).off("close", onEnd);
      if (outcome instanceof Error) reject(outcome);
      else resolve({ name: outcome.name, head });
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
    const timer = setTimeout(() => settle(new DeadlineError("the name of a connection", headTimeoutMs)), headTimeoutMs);
    guest.on("data", onData).on("end", onEnd).on("close", onEnd);
    guest.resume();
  });
}

async function connectTo(name: string, port: number, deps: RelayDependencies, signal: AbortSignal): Promise<Socket> {
  const addresses = await deps.findAddresses(name).catch((error: unknown) => {
    throw new Refusal(`${name} could not be resolved`, "502 Bad Gateway", { cause: error });
  });
  if (addresses.length === 0) throw new Refusal(`no sandbox can reach the addresses of ${name}`);
  let failure: unknown;
  for (const address of addresses.slice(0, addressesTried)) {
    try {
      return await dialTcp(address, port, { timeoutMs: connectTimeoutMs, signal, allowHalfOpen: true });
    } catch (error) {
      signal.throwIfAborted();
      failure = error;
    }
  }
  throw new Refusal(`${name} could not be connected to`, "502 Bad Gateway", { cause: failure });
}

/** Both directions, each at the pace of its slower side; an end is passed on, and a break breaks both. */
function join(guest: Socket, server: Socket, head: Buffer): void {
  server.setKeepAlive(true, keepAliveMs);
  server.write(head);
  for (const [one, other] of [
    [guest, server],
    [server, guest],
  ] as const) {
    one.pipe(other);
    one.once("close", (hadError) => {
      if (hadError || !one.readableEnded) other.destroy();
      else setTimeout(() => other.destroy(), lingerMs).unref();
    });
  }
  if (guest.destroyed) server.destroy();
}

/** TLS 1.2, 7.2: a fatal alert `access_denied`, which the guest's library names in its error */
const accessDenied = Buffer.from([21, 3, 3, 0, 2, 2, 49]);

/** Tells the guest as far as its protocol can, and closes. */
function refuse(guest: Socket, protocol: RelayProtocol, error: unknown): void {
  if (guest.destroyed) return;
  if (!(error instanceof Refusal) || (protocol === "tls" && error.status !== "403 Forbidden")) {
    guest.resetAndDestroy();
    return;
  }
  const text = `${error.message}\n`;
  const answer = `HTTP/1.1 ${error.status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: ${Buffer.byteLength(text)}\r\nconnection: close\r\n\r\n${text}`;
  guest.end(protocol === "tls" ? accessDenied : answer);
  guest.resume(); // what it still sends is not read by anyone, and must not keep the connection open
  setTimeout(() => guest.destroy(), lingerMs).unref();
}
