import { setMaxListeners } from "node:events";
import type { Duplex } from "node:stream";

import { createClient, type CallOptions, type Client, type Transport } from "@connectrpc/connect";
import { createConnectTransport } from "@connectrpc/connect-node";
import { Filesystem } from "@roost/contract/gen/filesystem/filesystem_pb.js";
import { Process } from "@roost/contract/gen/process/process_pb.js";
import { accessTokenHeader, guestAgentPort, type GuestTunnels } from "@roost/contract";
import { MiB, nap, second } from "@roost/kit";
import { traceHeaders } from "@roost/kit/tracing";

import { tracedTransport } from "../telemetry/traced-transport.ts";
import { fromGuestError, type GuestErrorCodes } from "./guest-errors.ts";
import { TunnelAgent } from "./tunnel-agent.ts";

/** Longest message taken from a guest in `bytes`: a listing of `listEntriesMax` entries with long names fits */
const guestMessageBytesMax = 64 * MiB;
/** Longest a guest may take in `ms` for a call that only looks or nudges */
export const quickCallTimeoutMs = 30 * second;
/** Longest a guest may take in `ms` for a call that may walk a whole disk */
export const longCallTimeoutMs = 300 * second;

/** Longest that a host may take in `ms` to say that a VM is gone, which it does on another connection than those that break with it */
const endToldMs = 2 * second;

/** Unused connections kept per sandbox */
const idleConnectionsMax = 4;

/** The address every guest believes to have; only the `Host` header ever shows it */
const guestOrigin = `http://169.254.0.21:${guestAgentPort}`;

/** What identifies a guest's VM: when one of these changes, connections to the old one are of no use. */
export interface GuestIdentity {
  readonly sandboxId: string;
  readonly accessToken: string;
  readonly vmKey: string;
}

/** The guest agent of one running sandbox. Nothing it answers is trusted. */
export class Guest {
  readonly identity: GuestIdentity;
  readonly agent: TunnelAgent;
  readonly processes: Client<typeof Process>;
  readonly filesystem: Client<typeof Filesystem>;
  readonly #tunnels: GuestTunnels;
  readonly #ended = new AbortController();

  constructor(identity: GuestIdentity, tunnels: GuestTunnels) {
    this.identity = identity;
    this.#tunnels = tunnels;
    setMaxListeners(0, this.#ended.signal); // each of its connections listens
    this.agent = new TunnelAgent({
      connect: (port, signal) => tunnels.connect(identity.sandboxId, port, signal),
      idleConnectionsMax,
    });
    const connect: Transport = createConnectTransport({
      baseUrl: guestOrigin,
      httpVersion: "1.1",
      useBinaryFormat: true,
      nodeOptions: { agent: this.agent },
      readMaxBytes: guestMessageBytesMax,
      acceptCompression: [], // compression would cost the guest more than the tunnel saves, and could be a bomb
    });
    const transport = tracedTransport(connect, "guest-agent");
    this.processes = createClient(Process, transport);
    this.filesystem = createClient(Filesystem, transport);
  }

  /** Aborts when the sandbox's VM is gone. */
  get ended(): AbortSignal {
    return this.#ended.signal;
  }

  /** Whether the sandbox's VM is gone, for who lost a connection into it: that may be heard of first. */
  async hasEnded(): Promise<boolean> {
    await nap(endToldMs, this.ended);
    return this.ended.aborted;
  }

  /** Headers of a request that acts as `user`; without one the guest's default user acts. */
  headers(user?: string): Record<string, string> {
    return {
      [accessTokenHeader]: this.identity.accessToken,
      ...traceHeaders(),
      ...(user === undefined ? {} : { authorization: `Basic ${Buffer.from(`${user}:`).toString("base64")}` }),
    };
  }

  /** One RPC with access token, user and deadline; its failure becomes a `PlatformError`. */
  async call<Answer>(
    rpc: (options: CallOptions) => Promise<Answer>,
    options: {
      readonly user?: string | undefined;
      readonly signal?: AbortSignal;
      readonly timeoutMs?: number;
      readonly errors: GuestErrorCodes;
    },
  ): Promise<Answer> {
    try {
      return await rpc({
        headers: this.headers(options.user),
        timeoutMs: options.timeoutMs ?? quickCallTimeoutMs,
        ...(options.signal === undefined ? {} : { signal: options.signal }),
      });
    } catch (error) {
      throw fromGuestError(error, options.errors);
    }
  }

  /** A connection of its own to a port. Whoever uses it ends it when `ended` aborts. */
  async connect(port: number, signal: AbortSignal): Promise<Duplex> {
    return this.#tunnels.connect(this.identity.sandboxId, port, signal);
  }

  /** Ends every connection. */
  close(): void {
    this.#ended.abort(new Error("the sandbox's VM ended"));
    this.agent.destroy();
  }
}

/** Options for Node's HTTP client that reach this guest's plain HTTP endpoints. */
export function guestRequestOptions(guest: Guest, path: string) {
  return { agent: guest.agent, host: "169.254.0.21", port: guestAgentPort, path } as const;
}
