import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError, type GuestTunnels } from "@roost/contract";
import { second, type Logger } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { findPlatformError } from "../guest/guest-errors.ts";
import { whyNoAccess } from "./access.ts";
import { exchange, IdleError, type ExchangeEnd } from "./exchange.ts";
import { requestHeaders, responseHeaders, type RoutedBy } from "./forwarded-headers.ts";
import { guestAgentActionOf, type GuestAgentUse } from "./guest-agent-use.ts";
import { GuestConnections } from "./guest-connections.ts";
import { OpenRequests, type OpenRequest } from "./open-requests.ts";
import { joinRaw } from "./raw-tunnel.ts";
import { notFound, portClosed, refusal, RefusedError } from "./refusals.ts";
import { hasBody } from "./request-body.ts";
import { SandboxCache } from "./sandbox-cache.ts";
import { isUsable, untilUsable, whyNever } from "./usable-sandbox.ts";

/** Time in `ms` in which nothing moves before a request or connection is cut; a little longer than load balancers in front usually wait */
const idleTimeoutMsDefault = 610 * second;
/** Tries to reach a sandbox whose state changes while it is tried */
const triesMax = 3;
/** Methods whose request may be sent again when a used connection turns out to be closed (RFC 9110, 9.2.2), if it has no body. */
const repeatable: ReadonlySet<string> = new Set(["GET", "HEAD", "OPTIONS"]);

export interface CarriageDependencies {
  /** The record as it is in the database */
  readonly find: (id: string) => Promise<SandboxRow | undefined>;
  /** A record as readers see it at this moment: ../sandboxes/present.ts */
  readonly present: (row: SandboxRow) => SandboxRow;
  /** Resumes a paused sandbox, however many ask; resolves when it runs */
  readonly wake: (sandbox: SandboxRow) => Promise<unknown>;
  /** Resolves when the record changes, or after `timeoutMs` */
  readonly changed: (id: string, timeoutMs: number) => Promise<void>;
  readonly tunnelsOf: (hostId: string) => GuestTunnels;
  readonly log: Logger;
  /** Time in `ms` in which nothing moves before a request or connection is cut; tests shorten it */
  readonly idleTimeoutMs?: number;
  /** Told of what changes something in a guest through its agent; undefined: nobody wants to know */
  readonly onGuestAgentUse?: ((use: GuestAgentUse) => void) | undefined;
}

/** A request, and where it is to be carried. */
export interface CarriedRequest {
  readonly request: IncomingMessage;
  readonly response: ServerResponse;
  /** For a request for another protocol: its connection, and what the client sent after the head */
  readonly upgrade: { readonly client: Duplex; readonly head: Buffer } | undefined;
  readonly sandboxId: string;
  readonly port: number;
  readonly by: RoutedBy;
}

type FailedExchange = Extract<ExchangeEnd, { kind: "failed" }>;

/** Gets requests to the guest that they are for, whatever state its sandbox is in. */
export class Carriage {
  readonly #deps: CarriageDependencies;
  readonly #cache: SandboxCache;
  readonly #connections: GuestConnections;
  readonly #requests = new OpenRequests();
  readonly #idleTimeoutMs: number;

  constructor(deps: CarriageDependencies) {
    this.#deps = deps;
    this.#cache = new SandboxCache(deps.find);
    this.#connections = new GuestConnections(deps.tunnelsOf);
    this.#idleTimeoutMs = deps.idleTimeoutMs ?? idleTimeoutMsDefault;
  }

  recordChanged(sandboxId: string): void {
    this.#cache.forget(sandboxId);
  }

  drop(sandboxId: string): void {
    this.#cache.forget(sandboxId);
    this.#requests.cut(sandboxId, new RefusedError(notFound(sandboxId)));
    this.#connections.drop(sandboxId);
  }

  async drained(timeoutMs: number): Promise<boolean> {
    return this.#requests.drained(timeoutMs);
  }

  close(): void {
    this.#requests.cutAll(new RefusedError(refusal(503, "the platform is shutting down")));
    this.#connections.close();
  }

  /** Resolves when the request was carried, or its client is gone; rejects with what to answer. */
  async carry(carried: CarriedRequest): Promise<void> {
    const { response, sandboxId } = carried;
    using open = this.#requests.open(sandboxId);
    if (open === undefined) {
      throw new RefusedError(refusal(429, "too many requests to this sandbox are open", { sandboxId, retryAfterSec: 1 }));
    }
    let last: FailedExchange | undefined;
    for (let tries = 1; ; tries += 1) {
      const sandbox = await this.#reach(carried, isRefusedByState(last?.error));
      if (response.destroyed) return; // the client did not wait
      const end = await this.#try(carried, sandbox, open, last === undefined);
      if (end.kind === "done") return;
      const wasClosed = end.isReused && isConnectionLost(end.error) && isRepeatable(carried);
      if (tries === triesMax || !end.isUntouched || !(wasClosed || isRefusedByState(end.error))) throw await this.#failure(carried, end);
      last = end;
    }
  }

  /** The sandbox, ready to be spoken to by this caller. */
  async #reach(carried: CarriedRequest, wasRefused: boolean): Promise<SandboxRow> {
    const { sandboxId: id, request, port } = carried;
    const check = (sandbox: SandboxRow) => whyNever(sandbox) ?? whyNoAccess(sandbox, port, request.url ?? "", request.headers);
    const recent = wasRefused ? undefined : await this.#cache.recent(id);
    if (recent !== undefined) {
      const sandbox = this.#deps.present(recent);
      if (isUsable(sandbox) && check(sandbox) === undefined) return sandbox;
    }
    // What is a moment old may let a request pass. It is only refused, and a sandbox only resumed, for what is so now.
    const sandbox = await this.#find(id);
    const refused = sandbox === undefined ? notFound(id) : check(sandbox);
    if (refused !== undefined) throw new RefusedError(refused);
    const { changed, wake } = this.#deps;
    return untilUsable({ find: async () => this.#find(id), changed, wake, isWanted: () => !carried.response.destroyed }, id, wasRefused);
  }

  async #find(id: string): Promise<SandboxRow | undefined> {
    const row = await this.#cache.fresh(id);
    return row === undefined ? undefined : this.#deps.present(row);
  }

  async #try(
    carried: CarriedRequest,
    sandbox: SandboxRow,
    open: OpenRequest,
    isFirst: boolean,
  ): Promise<FailedExchange | { kind: "done" }> {
    const { request, response, port, by, upgrade } = carried;
    const cut = open.newTry();
    const protocol = upgrade === undefined ? undefined : request.headers.upgrade;
    let agent;
    try {
      agent = this.#connections.agentOf(sandbox, port, upgrade === undefined && isFirst && isRepeatable(carried));
    } catch (error) {
      return { kind: "failed", error, isUntouched: true, isReused: false };
    }
    const end = await exchange({
      request,
      response,
      headers: requestHeaders(request, { sandbox, port, upgrade: protocol }),
      agent,
      port,
      by,
      isUpgrade: upgrade !== undefined,
      idleTimeoutMs: this.#idleTimeoutMs,
      onAnswer: this.#noteOf(carried, sandbox),
      cut,
    });
    if (end.kind !== "upgraded") return end;
    if (upgrade === undefined) throw new Error("only a request for another protocol is upgraded");
    const agreed = end.answer.headers.upgrade ?? protocol ?? "";
    try {
      response.writeHead(101, [...responseHeaders(end.answer, by), "connection", "Upgrade", "upgrade", agreed]);
      response.flushHeaders();
      response.detachSocket(upgrade.client as never);
    } catch (error) {
      end.tunnel.destroy();
      throw error;
    }
    const { client, head: clientHead } = upgrade;
    await joinRaw({ client, clientHead, guest: end.tunnel, guestHead: end.head, idleTimeoutMs: this.#idleTimeoutMs, cut });
    return { kind: "done" };
  }

  /** What is to be told of a request once its guest has answered; undefined: nothing. */
  #noteOf({ request, port, by }: CarriedRequest, sandbox: SandboxRow): ((status: number) => void) | undefined {
    const { onGuestAgentUse: tell } = this.#deps;
    const action = tell === undefined || port !== guestAgentPort ? undefined : guestAgentActionOf(request.method, request.url ?? "");
    return tell === undefined || action === undefined ? undefined : (status) => tell({ sandbox, request, by, action, status });
  }

  /** What to tell the client when its request could not be carried. */
  async #failure({ sandboxId, port }: CarriedRequest, { error }: FailedExchange): Promise<unknown> {
    if (error instanceof RefusedError) return error;
    if (error instanceof IdleError) {
      return new RefusedError(refusal(504, "The sandbox did not answer in time", { sandboxId, port }));
    }
    const known = findPlatformError(error);
    if (known?.code === "sandbox_wrong_state") {
      return new RefusedError(refusal(409, "The sandbox is changing its state: try again in a moment", { sandboxId, retryAfterSec: 1 }));
    }
    if (known !== undefined && known.code !== "guest_unreachable") return known;
    // Its VM may have ended while it was asked
    const sandbox = await this.#find(sandboxId);
    if (sandbox === undefined || whyNever(sandbox) !== undefined) return new RefusedError(notFound(sandboxId));
    if (known !== undefined) return new RefusedError(portClosed(sandboxId, port));
    this.#deps.log.debug({ err: error, sandboxId, port }, "a guest's answer cannot be passed on");
    return new RefusedError(refusal(502, "The sandbox broke off, or what it answered is not HTTP", { sandboxId, port }));
  }
}

/** The host says that the sandbox's state is another one than the record's. */
function isRefusedByState(error: unknown): boolean {
  return error instanceof PlatformError && error.code === "sandbox_wrong_state";
}

function isConnectionLost(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "ECONNRESET" || code === "EPIPE";
}

/** Whether it does no harm that a request reaches the guest twice. */
function isRepeatable({ request }: CarriedRequest): boolean {
  return repeatable.has(request.method ?? "") && !hasBody(request);
}
