import type { IncomingMessage, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";

import { guestAgentPort, PlatformError, type GuestTunnels, type SandboxState } from "@roost/contract";
import { second, type Logger } from "@roost/kit";

import type { SandboxRow } from "../db/sandboxes.ts";
import { findPlatformError } from "../guest/guest-errors.ts";
import { whyNoAccess, type AskedPort } from "./access.ts";
import { exchange, IdleError, type FailedExchange } from "./exchange.ts";
import { isOverTls, requestHeaders, responseHeaders, type RoutedBy } from "./forwarded-headers.ts";
import { guestAgentActionOf, type GuestAgentUse } from "./guest-agent-use.ts";
import { GuestConnections } from "./guest-connections.ts";
import { OpenRequests, openRequestsMaxDefault, type OpenRequest } from "./open-requests.ts";
import { grantCookie, isPageVisit, locationOf } from "./port-grant.ts";
import { endOf, type PortKeys } from "./port-keys.ts";
import { joinRaw } from "./raw-tunnel.ts";
import { notFound, portClosed, refusal, RefusedError, type Refusal } from "./refusals.ts";
import { hasBody } from "./request-body.ts";
import { SandboxCache } from "./sandbox-cache.ts";
import { inTransition, isUsable, untilUsable, whyNever } from "./usable-sandbox.ts";

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
  /** Checks what signed URLs carry */
  readonly portKeys: PortKeys;
  /** Requests and connections that one sandbox may have open at once; default: 1,536 */
  readonly openRequestsMax?: number | undefined;
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
  /** Path and query, as the guest gets them */
  readonly target: string;
  /** From the URL: opens the port, if it is good */
  readonly grant: string | undefined;
}

/** The VM that was spoken to is gone. */
class VmEndedError extends RefusedError {}

const isSaved: ReadonlySet<SandboxState> = new Set(["pausing", "paused", "resuming"]);

/** Gets requests to the guest that they are for, whatever state its sandbox is in. */
export class Carriage {
  readonly #deps: CarriageDependencies;
  readonly #cache: SandboxCache;
  readonly #connections: GuestConnections;
  readonly #requests: OpenRequests<CarriedRequest>;
  readonly #idleTimeoutMs: number;

  constructor(deps: CarriageDependencies) {
    this.#deps = deps;
    this.#cache = new SandboxCache(deps.find);
    this.#connections = new GuestConnections(deps.tunnelsOf);
    this.#requests = new OpenRequests(deps.openRequestsMax ?? openRequestsMaxDefault);
    this.#idleTimeoutMs = deps.idleTimeoutMs ?? idleTimeoutMsDefault;
  }

  recordChanged(sandboxId: string): void {
    this.#cache.forget(sandboxId);
    void this.review(sandboxId);
  }

  /**
   * The sandbox is about to be paused, and its host waits for what is under way to its ports: unused connections are let go, and what has no end is cut. Its client comes again, and that
   * wakes the sandbox or not, as it was made.
   */
  pausing(sandboxId: string): void {
    this.#cache.forget(sandboxId);
    this.#connections.retire(sandboxId);
    this.#requests.cutEndless(sandboxId, new RefusedError(inTransition(sandboxId)));
  }

  /** Cuts what is under way to a sandbox and would not be let in any more: a port was made private, a token was changed, a signed URL has expired. */
  async review(sandboxId: string): Promise<void> {
    if (!this.#requests.isConcerned(sandboxId)) return;
    const sandbox = await this.#find(sandboxId).catch((error: unknown) => {
      this.#deps.log.warn({ err: error, sandboxId }, "whether requests may go on cannot be looked up; it is tried again");
    });
    if (sandbox === undefined) return; // its end is told
    if (sandbox.state !== "pausing") this.#requests.drainingEnded(sandboxId);
    this.#requests.cutWhere(sandboxId, (carried) => {
      const refused = this.#whyNoAccess(sandbox, carried);
      return refused === undefined ? undefined : new RefusedError(refused);
    });
  }

  /** The same for all sandboxes, one after the other: another control plane may have changed a record. */
  async reviewAll(): Promise<void> {
    for (const sandboxId of this.#requests.sandboxIds) await this.review(sandboxId);
  }

  drop(sandboxId: string): void {
    this.#cache.forget(sandboxId);
    this.#requests.cut(sandboxId, new VmEndedError(notFound(sandboxId)));
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
    using open = this.#requests.open(sandboxId, carried);
    if (open === undefined) {
      throw new RefusedError(refusal(429, "too many requests to this sandbox are open", { sandboxId, retryAfterSec: 1 }));
    }
    if (carried.grant !== undefined && carried.upgrade === undefined && isPageVisit(carried.request.method, carried.request.headers)) {
      return this.#sendOn(carried, carried.grant);
    }
    let last: FailedExchange | undefined;
    for (let tries = 1; ; tries += 1) {
      const sandbox = await this.#reach(carried, isRefusedByState(last?.error));
      if (response.destroyed) return; // the client did not wait
      const end = await this.#try(carried, sandbox, open, last === undefined);
      if (end.kind === "done") return;
      if (tries === triesMax || !end.isUntouched || !(await this.#mayTryAgain(carried, sandbox, end)))
        throw await this.#failure(carried, end);
      last = end;
    }
  }

  /** Keeps the grant in a cookie, and sends the browser to where the URL leads without it. */
  async #sendOn(carried: CarriedRequest, grant: string): Promise<void> {
    const { request, response, sandboxId, target } = carried;
    const sandbox = await this.#find(sandboxId);
    const refused = sandbox === undefined ? notFound(sandboxId) : (whyNever(sandbox) ?? this.#whyNoAccess(sandbox, carried));
    if (refused !== undefined) throw new RefusedError(refused);
    const lifeSec = Math.floor((endOf(grant).getTime() - Date.now()) / second);
    response.writeHead(302, {
      location: locationOf(target),
      "cache-control": "no-store",
      "referrer-policy": "no-referrer",
      "content-length": 0,
      // A port that anybody may reach asks for no grant, so this one may be anything
      ...(lifeSec > 0 ? { "set-cookie": grantCookie(grant, isOverTls(request), lifeSec) } : {}),
    });
    response.end();
  }

  #whyNoAccess(sandbox: SandboxRow, carried: CarriedRequest): Refusal | undefined {
    const { request, port, target, grant, by } = carried;
    const asked: AskedPort = { port, target, headers: request.headers, grant, isByHost: by === "host", isTls: isOverTls(request) };
    return whyNoAccess(sandbox, asked, this.#deps.portKeys, new Date());
  }

  /** The sandbox, ready to be spoken to by this caller. */
  async #reach(carried: CarriedRequest, wasRefused: boolean): Promise<SandboxRow> {
    const { sandboxId: id } = carried;
    const check = (sandbox: SandboxRow) => whyNever(sandbox) ?? this.#whyNoAccess(sandbox, carried);
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

  /**
   * Whether a request that got no answer is sent once more: its connection was not there any more, or the sandbox has another place or state than its record said. A request that may be repeated
   * outlives its VM, too, where the sandbox is resumed by it: it was paused although its app had not answered in the time that there is for that.
   */
  async #mayTryAgain(carried: CarriedRequest, tried: SandboxRow, { error, isSent, isReused }: FailedExchange): Promise<boolean> {
    if (isRefusedByState(error) && !isSent) return true;
    if (isReused && isConnectionLost(error) && isRepeatable(carried)) return true;
    const isUnknownThere =
      !isSent && error instanceof PlatformError && (error.code === "sandbox_not_found" || error.code === "host_unreachable");
    const isCut = isSent && (isConnectionLost(error) || isRefusedByState(error) || error instanceof VmEndedError);
    if (!isUnknownThere && !(isCut && isRepeatable(carried))) return false;
    const now = await this.#find(carried.sandboxId);
    if (now === undefined || whyNever(now) !== undefined) return false;
    return now.host_id !== tried.host_id || (!isUnknownThere && now.auto_resume && isSaved.has(now.state));
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
    const note = this.#noteOf(carried, sandbox);
    const protocol = upgrade === undefined ? undefined : request.headers.upgrade;
    let agent;
    try {
      agent = this.#connections.agentOf(sandbox, port, upgrade === undefined && isFirst && isRepeatable(carried));
    } catch (error) {
      return { kind: "failed", error, isUntouched: true, isSent: false, isReused: false };
    }
    const end = await exchange({
      request,
      response,
      target: carried.target,
      headers: requestHeaders(request, { sandbox, port, upgrade: protocol }),
      agent,
      port,
      by,
      isUpgrade: upgrade !== undefined,
      idleTimeoutMs: this.#idleTimeoutMs,
      onAnswer: (answer) => {
        if (isEventStream(answer)) open.isEndless();
        note?.(answer.statusCode ?? 502);
      },
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
    open.isEndless();
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
  async #failure({ sandboxId, port }: CarriedRequest, { error, isSent }: FailedExchange): Promise<unknown> {
    if (error instanceof RefusedError) return error;
    if (error instanceof IdleError) {
      return new RefusedError(refusal(504, "The sandbox did not answer in time", { sandboxId, port }));
    }
    const known = findPlatformError(error);
    if (known?.code === "sandbox_wrong_state") {
      if (isSent) return new RefusedError(refusal(502, "The sandbox was paused before it answered", { sandboxId, port }));
      return new RefusedError(inTransition(sandboxId));
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

function isEventStream({ headers }: IncomingMessage): boolean {
  return /^text\/event-stream\b/i.test(headers["content-type"] ?? "");
}

function isConnectionLost(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  return code === "ECONNRESET" || code === "EPIPE";
}

/** Whether it does no harm that a request reaches the guest twice. */
function isRepeatable({ request }: CarriedRequest): boolean {
  return repeatable.has(request.method ?? "") && !hasBody(request);
}
