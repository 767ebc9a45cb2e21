import type { Socket } from "node:net";

import type { EgressProxy } from "@roost/contract";
import type { Logger } from "@roost/kit";

/** Silence in `ms` after which the kernel asks whether the other side is still there */
const keepAliveMs = 60_000;
/** Time in `ms` for one side to take its last bytes after the other one is gone */
const lingerMs = 30_000;

/** What a connection leads to, and how. */
export interface RelayTarget {
  /** That it asked for; undefined: it goes by address */
  readonly name: string | undefined;
  /** As a number; undefined: only the proxy knows */
  readonly address: number | undefined;
  readonly proxy: EgressProxy | null;
  /** Of a connection to a port where TLS is opened for names with rules: the name that it greeted with, and whether it was; `unread`: nobody looked. Undefined: it is another port */
  readonly tls?: { readonly name: string | undefined; readonly isOpened: boolean } | "unread";
}

/** How a connection goes on. */
export interface RelayOpening {
  /** Where it leads; undefined: that is decided for each request */
  readonly target: RelayTarget | undefined;
  /** Carries it from now on; answers where it leads, at any time */
  readonly join: () => () => readonly RelayTarget[];
  /** In place of `join` */
  readonly abandon: () => void;
}

export interface RelayDependencies {
  /** Connects to the server; the signal aborts when the guest has gone */
  readonly open: (signal: AbortSignal) => Promise<RelayOpening>;
  readonly isAllowed: (target: RelayTarget) => boolean;
  /** Tells the guest as far as its protocol can, and closes */
  readonly refuse: (error: unknown) => void;
  readonly log: Logger;
}

export interface Relay {
  /** Empty until a server is connected */
  readonly targets: readonly RelayTarget[];
  readonly ended: Promise<void>;
  /** Ends it at once. Idempotent. */
  end(): void;
}

/** What a connection is refused with; for the guest. */
export class Refusal extends Error {
  override readonly name = "Refusal";
  readonly status: "403 Forbidden" | "502 Bad Gateway";

  constructor(message: string, status: Refusal["status"] = "403 Forbidden", options: ErrorOptions = {}) {
    super(message, options);
    this.status = status;
  }
}

/** Carries one connection of a guest, paused as it was accepted, to the server that `open` connects to. */
export function relay(guest: Socket, deps: RelayDependencies): Relay {
  let targets: () => readonly RelayTarget[] = () => [];
  const gone = new AbortController();
  guest.setKeepAlive(true, keepAliveMs);
  const ended = new Promise<void>((resolve) => {
    guest.once("close", () => {
      gone.abort();
      resolve();
    });
  });
  const begin = async () => {
    const opened = await deps.open(gone.signal);
    // The policy may have changed meanwhile
    if (opened.target !== undefined && !deps.isAllowed(opened.target)) {
      opened.abandon();
      throw new Refusal("the network policy of this sandbox does not allow this connection any more");
    }
    targets = opened.join();
  };
  begin().catch((error: unknown) => {
    deps.log.debug({ err: error }, "a connection of a guest was refused");
    if (!guest.destroyed) deps.refuse(error);
  });
  return {
    get targets() {
      return targets();
    },
    ended,
    end: () => void guest.resetAndDestroy(),
  };
}

/** To a server that answers, as the bytes are. `head`: what was read of the guest's. */
export function asItIs(guest: Socket, server: Socket, target: RelayTarget, head: Buffer): RelayOpening {
  return {
    target,
    join: () => {
      join(guest, server, head);
      return () => [target];
    },
    abandon: () => void server.destroy(),
  };
}

/** Both directions, each at the pace of its slower side; an end is passed on, and a break breaks both. */
function join(guest: Socket, server: Socket, head: Buffer): void {
  server.setKeepAlive(true, keepAliveMs);
  if (head.length > 0) server.write(head);
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

/** The last that a guest is told. */
export function endWith(guest: Socket, bytes: string | Buffer): void {
  guest.end(bytes);
  guest.resume(); // what it still sends is not read by anyone, and must not keep the connection open
  setTimeout(() => guest.destroy(), lingerMs).unref();
}
