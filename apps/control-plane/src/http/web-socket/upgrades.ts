import type { IncomingMessage } from "node:http";
import type { Duplex } from "node:stream";

import {
  buildIdSchema,
  execStreamClientSchema,
  endpoints,
  PlatformError,
  portNameSchema,
  processSelectorSchema,
  ptyClientSchema,
  sandboxIdSchema,
  webSocketMessageBytesMax,
} from "@roost/contract";
import { poll, second } from "@roost/kit";
import { inSpan } from "@roost/kit/tracing";
import { WebSocketServer, type WebSocket } from "ws";
import { z } from "zod";

import { ownedBy } from "../../db/owned-id.ts";
import { authorize } from "../authorization.ts";
import { watchCaller } from "../caller-watch.ts";
import type { Caller } from "../../accounts/caller.ts";
import type { AuditEntry } from "../../audit/audit.ts";
import { auditRuleOf, entryOf } from "../audit-hook.ts";
import { toPlatformError } from "../errors.ts";
import { checkOrigin } from "../origin.ts";
import { matchWebSocket, type WebSocketEndpointId } from "../path-table.ts";
import { answerRaw } from "../raw-answer.ts";
import { requestIdHeader, requestIdOf } from "../request-id.ts";
import { headerOf } from "../tracing-hook.ts";
import type { Services } from "../services.ts";
import { parse } from "../validation.ts";
import { serveAttach } from "./attach.ts";
import { serveExecStream } from "./exec-stream.ts";
import { closeCodes, JsonSocket } from "./json-socket.ts";
import { serveFollowBuild } from "./follow-build.ts";
import { servePty } from "./pty.ts";
import { closeCodeOf, type SessionContext } from "./session.ts";
import { serveWatch } from "./watch.ts";
import type { OpenTunnels } from "../../tunnels/open-tunnels.ts";
import { serveTunnel } from "../../tunnels/serve-tunnel.ts";
import { TunnelSocket } from "../../tunnels/tunnel-socket.ts";

/** WebSockets open at once; above, upgrades are refused. Each costs up to a few MiB of buffers */
const socketsMax = 2_000;
/** Time sockets have to close in `ms` when the platform shuts down */
const drainTimeoutMs = 5 * second;

const paramsSchema = z.object({ id: sandboxIdSchema, selector: processSelectorSchema.optional(), port: portNameSchema.optional() });
const buildParamsSchema = z.object({ build: buildIdSchema });
const noQuery = z.strictObject({});

interface Accepted {
  readonly id: WebSocketEndpointId;
  /** Throws when the caller may not, or not any more */
  readonly admit: () => Promise<unknown>;
  /** Called once the socket is open: a paused sandbox may have to be resumed first, which takes longer than clients wait for an upgrade */
  readonly serve: (socket: never) => Promise<void>;
}

/**
 * HTTP upgrades to WebSockets. What is wrong with the request itself (key, origin, path, unknown sandbox) is answered as
 * HTTP; what is wrong with the sandbox at this moment comes as an `error` message, which browsers can read too.
 */
export class Upgrades {
  readonly #services: Services;
  readonly #allowedOrigins: readonly string[];
  readonly #tunnels: OpenTunnels;
  readonly #server = new WebSocketServer({
    noServer: true,
    maxPayload: webSocketMessageBytesMax,
    perMessageDeflate: false,
    clientTracking: true,
  });

  constructor(services: Services, allowedOrigins: readonly string[], tunnels: OpenTunnels) {
    this.#tunnels = tunnels;
    this.#services = services;
    this.#allowedOrigins = allowedOrigins;
  }

  /** Listener for a server's `upgrade` event. */
  upgrade(request: IncomingMessage, stream: Duplex, head: Buffer): void {
    const requestId = requestIdOf(request.headers[requestIdHeader]);
    const log = this.#services.log.child({ requestId });
    stream.on("error", (error) => log.debug({ err: error }, "a connection failed during its upgrade"));
    this.#accept(request, requestId).then(
      (accepted) => {
        if (stream.destroyed) return;
        const from = headerOf(request.headers);
        const options = { kind: "server", attributes: { "roost.endpoint": accepted.id, "roost.request_id": requestId }, from } as const;
        this.#server.handleUpgrade(
          request,
          stream,
          head,
          (socket) => void inSpan(`WS ${endpoints[accepted.id].path}`, options, async () => this.#serve(accepted, socket)),
        );
      },
      (error: unknown) => {
        const failure = toPlatformError(error);
        if (failure.status >= 500) log.error({ err: error }, "upgrade failed");
        answerRaw(stream, failure, { [requestIdHeader]: requestId });
      },
    );
  }

  /** Tells every client that the platform is going away, and waits for them to close. */
  async drain(): Promise<void> {
    for (const socket of this.#server.clients) socket.close(closeCodes.goingAway, "the platform is shutting down");
    const gone = () => (this.#server.clients.size === 0 ? true : undefined);
    await poll({ what: "closing of all WebSockets", timeoutMs: drainTimeoutMs }, gone).catch(() => this.close());
  }

  close(): void {
    for (const socket of this.#server.clients) socket.terminate();
  }

  async #accept(request: IncomingMessage, requestId: string): Promise<Accepted> {
    const { sandboxes, guests, authentication, builds, templates, log } = this.#services;
    const url = new URL(request.url ?? "/", "http://localhost");
    const match = matchWebSocket(url.pathname);
    if (match === undefined) throw new PlatformError("route_not_found", "there is no WebSocket at this path");
    if (this.#services.isDraining()) throw new PlatformError("shutting_down", "the platform is shutting down", { retryAfterSec: 5 });
    if (request.headers.upgrade?.toLowerCase() !== "websocket" || request.method !== "GET") {
      throw new PlatformError("request_invalid", "only upgrades to `websocket` are known");
    }
    checkOrigin(request.headers, this.#allowedOrigins);
    const { id } = match;
    const admit = async () => {
      const caller = await authentication.identify(request, requestId);
      authorize(caller, endpoints[id].access);
      return caller;
    };
    const caller = await admit();
    if (this.#server.clients.size >= socketsMax)
      throw new PlatformError("rate_limited", "too many WebSockets are open", { retryAfterSec: 10 });
    if (id === "followBuild") {
      const { build } = parse(buildParamsSchema, match.params, "the path");
      const { offset } = parse(endpoints.followBuild.query, queryOf(url), "the query");
      const owned = await builds.get(ownedBy(caller.teamId, build));
      return { id, admit, serve: async (socket) => serveFollowBuild(socket, { builds, templates, build: owned, offset }) };
    }
    const params = parse(paramsSchema, match.params, "the path");
    const query = parse(querySchemaOf(id), queryOf(url), "the query") as Record<string, string>;
    const row = await sandboxes.get(ownedBy(caller.teamId, params.id));
    if (id === "openTunnel") {
      const take = () => this.#tunnels.take(row.id);
      const reach = async () => guests.of(await this.#audited(id, caller, row.id, async () => sandboxes.getUsable(row)));
      return { id, admit, serve: async (socket) => serveTunnel(socket, { take, reach, port: Number(params.port) }) };
    }
    return {
      id,
      admit,
      serve: async (socket) => {
        const guest = guests.of(await this.#audited(id, caller, row.id, async () => sandboxes.getUsable(row)));
        await serve(id, socket, {
          guest,
          params: match.params,
          query,
          log: log.child({ sandboxId: row.id, teamId: caller.teamId, endpoint: id }),
        });
      },
    };
  }

  /** Notes that somebody begins to use a guest, or could not, where that is to be audited. */
  async #audited<Result>(id: WebSocketEndpointId, caller: Caller, sandboxId: string, begin: () => Promise<Result>): Promise<Result> {
    const { bookkeeping, auditCommands } = this.#services;
    const rule = auditRuleOf(id, auditCommands);
    if (rule === undefined) return begin();
    const note = (outcome: Pick<AuditEntry, "status" | "detail">) =>
      bookkeeping.auditQueue.add(caller, entryOf(rule, caller, sandboxId, outcome));
    try {
      const result = await begin();
      note({ status: "success" });
      return result;
    } catch (error) {
      note({ status: "failure", detail: { error: toPlatformError(error).code } });
      throw error;
    }
  }

  async #serve({ id, admit, serve: serveSession }: Accepted, socket: WebSocket): Promise<void> {
    const { metrics, log } = this.#services;
    metrics.socketOpened(id);
    socket.once("close", () => metrics.socketClosed(id));
    const json =
      id === "openTunnel"
        ? new TunnelSocket(socket)
        : new JsonSocket<never, never>(socket, messageSchemas[id] as z.ZodType<never> | undefined);
    const tell = async (failure: PlatformError) => {
      const message = { type: "error", code: failure.code, data: failure.message, ...(id === "pty" ? { fatal: true } : {}) };
      await json.send(message as never);
    };
    const end = (failure: PlatformError) => json.close(closeCodeOf(failure), failure.code);
    watchCaller(async () => void (await admit()), log, json.closed).catch((error: unknown) => {
      const failure = toPlatformError(error);
      void tell(failure); // whether it reads that or not
      end(failure);
    });
    try {
      await serveSession(json as never);
    } catch (error) {
      const failure = toPlatformError(error);
      if (failure.code === "internal") log.error({ err: error, endpoint: id }, "a WebSocket session failed");
      await tell(failure);
      end(failure);
    }
  }
}

/** What clients may send, where they may send anything. */
const messageSchemas: Partial<Record<WebSocketEndpointId, z.ZodType>> = { execStream: execStreamClientSchema, pty: ptyClientSchema };

function serve(id: Exclude<WebSocketEndpointId, "followBuild" | "openTunnel">, socket: never, context: SessionContext): Promise<void> {
  switch (id) {
    case "execStream":
      return serveExecStream(socket, context);
    case "pty":
      return servePty(socket, context);
    case "attachProcess":
      return serveAttach(socket, context);
    case "watchFiles":
      return serveWatch(socket, context);
  }
}

function querySchemaOf(id: WebSocketEndpointId): z.ZodObject {
  const endpoint = endpoints[id];
  return "query" in endpoint ? endpoint.query : noQuery;
}

function queryOf(url: URL): Record<string, string | string[]> {
  const names = [...new Set(url.searchParams.keys())];
  return Object.fromEntries(
    names.map((name) => {
      const values = url.searchParams.getAll(name);
      return [name, values.length === 1 ? (values[0] ?? "") : values];
    }),
  );
}
