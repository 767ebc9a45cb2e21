import type { IncomingMessage, ServerOptions, ServerResponse } from "node:http";
import type { Socket } from "node:net";

import { endpoints, jsonBodyBytesMax, PlatformError } from "@roost/contract";
import { KiB, must, second } from "@roost/kit";
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from "fastify";

import { sendE2bError } from "../e2b/errors.ts";
import { e2bRoutes, isE2bPath } from "../e2b/route-table.ts";
import { addE2bRoutes } from "../e2b/routes.ts";
import { addAuditHook } from "./audit-hook.ts";
import { authorize } from "./authorization.ts";
import { toPlatformError } from "./errors.ts";
import { createFrontedServer, type RequestFront } from "./fronted-server.ts";
import { matchWebSocket, PathTable, type WebSocketAccess } from "./path-table.ts";
import { answerRaw } from "./raw-answer.ts";
import { requestIdHeader, requestIdOf } from "./request-id.ts";
import { addTracing } from "./tracing-hook.ts";
import { Once } from "./once.ts";
import { addApiKeyRoutes } from "./routes/api-keys.ts";
import { addAuditRoutes } from "./routes/audit.ts";
import { addChannelRoutes } from "./routes/channels.ts";
import { addAdminRoutes } from "./routes/admin.ts";
import { addAuthRoutes } from "./routes/auth.ts";
import { addDocsRoutes } from "./routes/docs.ts";
import { addEventRoutes } from "./routes/events.ts";
import { addFileRoutes } from "./routes/files.ts";
import { addHostRoutes } from "./routes/hosts.ts";
import { addOperationRoutes } from "./routes/operations.ts";
import { addMeRoutes } from "./routes/me.ts";
import { addProcessRoutes } from "./routes/processes.ts";
import { addNetworkRoutes } from "./routes/network.ts";
import { addPortRoutes } from "./routes/ports.ts";
import { addSandboxRoutes } from "./routes/sandboxes.ts";
import { addSnapshotRoutes } from "./routes/snapshots.ts";
import { addSystemRoutes, systemRoutes } from "./routes/system.ts";
import { addBuildRoutes, viewOwnBuild } from "./routes/builds.ts";
import { addTeamRoutes } from "./routes/teams.ts";
import { addTemplateRoutes } from "./routes/templates.ts";
import { addUsageRoutes } from "./routes/usage.ts";
import type { Services } from "./services.ts";

/** Request line and headers together in `bytes`; a path of 4 KiB, percent-encoded, fits */
const headerBytesMax = 32 * KiB;
/** Time a client has to send its headers in `ms`, and then a JSON body; longer is a broken or hostile one */
const headersTimeoutMs = 15 * second;
const bodyTimeoutMsDefault = 30 * second;
/** Time between two looks for connections that are too slow in `ms`; Node's default is 30 s */
const headersCheckMs = 5 * second;
/** Unused connections are kept this long in `ms`: longer than load balancers in front usually do (60 s) */
const keepAliveTimeoutMs = 75 * second;
/** First keepalive probe of an idle TCP connection in `ms`: a client that vanished is found out */
const tcpKeepAliveMs = 60 * second;
/** Connections at once; above, new ones are closed as soon as they come */
const connectionsMax = 4_096;
/** Longest single path parameter in characters: a tag, percent-encoded */
const paramLengthMax = 512;

const serverOptions: ServerOptions = {
  maxHeaderSize: headerBytesMax,
  headersTimeout: headersTimeoutMs,
  connectionsCheckingInterval: headersCheckMs,
  requestTimeout: 0, // would also end long uploads; headers and JSON bodies have deadlines of their own
  keepAliveTimeout: keepAliveTimeoutMs,
  keepAlive: true,
  keepAliveInitialDelay: tcpKeepAliveMs,
};

/** Deadlines of the HTTP server; tests shorten them. */
export interface HttpDeadlines {
  readonly bodyTimeoutMs?: number;
}

/** The HTTP server with all routes, not yet listening. What `front` claims does not get to them. */
export async function buildServer(services: Services, deadlines: HttpDeadlines = {}, front?: RequestFront): Promise<FastifyInstance> {
  const app: FastifyInstance = fastify({
    logger: false,
    bodyLimit: jsonBodyBytesMax,
    genReqId: (request: IncomingMessage) => requestIdOf(request.headers[requestIdHeader]),
    forceCloseConnections: "idle",
    return503OnClosing: false,
    serverFactory: (listener) => createFrontedServer(serverOptions, listener, front),
    routerOptions: { maxParamLength: paramLengthMax },
    clientErrorHandler: onClientError,
    frameworkErrors: (error, request, reply) => {
      void reply.header(requestIdHeader, request.id);
      void sendError(reply, toPlatformError(error));
    },
  });
  app.server.maxConnections = connectionsMax;

  app.decorateRequest("caller", undefined);
  app.decorateRequest("callerGone", undefined);
  addJsonParser(app);
  addTracing(app);
  addHooks(app, services, deadlines.bodyTimeoutMs ?? bodyTimeoutMsDefault);
  addAuditHook(app, services);
  addErrorAnswers(app, services);
  app.addHook("onRoute", ({ url, config }) => void must(config?.access, `who may call ${url}`));
  app.decorate(
    "once",
    new Once(services.sandboxes, {
      "build.create": async (owned) => viewOwnBuild(services, owned),
      "snapshot.create": async (owned) => services.snapshots.getById(owned),
    }),
  );
  addSystemRoutes(app, services);
  addDocsRoutes(app);
  addSandboxRoutes(app, services);
  addNetworkRoutes(app, services);
  addPortRoutes(app, services);
  addSnapshotRoutes(app, services);
  addProcessRoutes(app, services);
  addFileRoutes(app, services);
  addHostRoutes(app, services);
  addTemplateRoutes(app, services);
  addBuildRoutes(app, services);
  addOperationRoutes(app, services);
  addApiKeyRoutes(app, services);
  addEventRoutes(app, services);
  addChannelRoutes(app, services);
  addAuditRoutes(app, services);
  addUsageRoutes(app, services);
  addAuthRoutes(app, services);
  addMeRoutes(app, services);
  addTeamRoutes(app, services);
  addAdminRoutes(app, services);
  addE2bRoutes(app, services);
  await app.ready();
  return app;
}

/** Fastify's own JSON parser, except that no body is no error: every field may have a default. */
function addJsonParser(app: FastifyInstance): void {
  const parseJson = app.getDefaultJsonParser("error", "error");
  app.removeAllContentTypeParsers();
  app.addContentTypeParser("application/json", { parseAs: "string" }, (request, body, done) => {
    if (body.length === 0) return done(null, undefined);
    void parseJson(request, body as string, done);
  });
}

function addHooks(app: FastifyInstance, services: Services, bodyTimeoutMs: number): void {
  app.addHook("onRequest", async (request, reply) => {
    void reply.headers({ [requestIdHeader]: request.id, "x-content-type-options": "nosniff", "cache-control": "no-store" });
    request.callerGone = whenGone(reply.raw);
    const { access, isUpload } = request.routeOptions.config;
    if (request.is404) return;
    if (services.isDraining()) {
      void reply.header("connection", "close");
      throw new PlatformError("shutting_down", "the platform is shutting down", { retryAfterSec: 5 });
    }
    if (access !== "open") {
      request.caller = await services.authentication.identify(request.raw, request.id);
      authorize(request.caller, must(access, "every route says who may call it"));
    }
    if (isUpload !== true && !request.raw.complete) limitBodyTime(request, reply, bodyTimeoutMs);
  });

  app.addHook("onResponse", async (request, reply) => {
    const endpoint = request.routeOptions.config.operationId ?? "unknown";
    const durationMs = reply.elapsedTime;
    services.metrics.observeRequest(endpoint, reply.statusCode, durationMs);
    services.log.debug(
      {
        requestId: request.id,
        endpoint,
        method: request.method,
        status: reply.statusCode,
        durationMs: Math.round(durationMs),
        teamId: request.caller?.teamId,
        actor: request.caller?.actor.id,
      },
      "request",
    );
  });
}

/** Aborts when the connection closes before the answer was written. */
function whenGone(response: ServerResponse): AbortSignal {
  const gone = new AbortController();
  response.once("close", () => {
    if (!response.writableFinished) gone.abort(new PlatformError("request_invalid", "the caller is gone"));
  });
  return gone.signal;
}

/** A body that dribbles in for too long is answered and cut off. */
function limitBodyTime(request: FastifyRequest, reply: FastifyReply, bodyTimeoutMs: number): void {
  const timer = setTimeout(() => {
    if (request.raw.complete || reply.sent) return;
    const late = new PlatformError("request_invalid", `the body did not arrive within ${bodyTimeoutMs / second} s`);
    reply.hijack();
    answerRaw(request.raw.socket, late, { [requestIdHeader]: request.id });
  }, bodyTimeoutMs);
  request.raw.once("end", () => clearTimeout(timer));
  reply.raw.once("close", () => clearTimeout(timer));
}

function addErrorAnswers(app: FastifyInstance, services: Services): void {
  const paths = new PathTable([...systemRoutes, ...Object.values(e2bRoutes)]);
  app.setErrorHandler((error, request, reply) => {
    const failure = toPlatformError(error);
    const context = {
      err: error,
      requestId: request.id,
      endpoint: request.routeOptions.config.operationId,
      code: failure.code,
      detail: failure.detail,
    };
    const isCallerGone = request.callerGone?.aborted === true;
    if (failure.code === "internal" && !isCallerGone) services.log.error(context, "request failed");
    else if (failure.status >= 500 && !isCallerGone) services.log.warn(context, "request failed");
    else services.log.debug(context, "request refused");
    // What is left of a body is not read: the connection cannot be used again.
    if (!request.raw.complete) void reply.header("connection", "close");
    return sendError(reply, failure);
  });
  app.setNotFoundHandler((request, reply) => {
    const pathname = pathnameOf(request);
    const socket = matchWebSocket(pathname);
    if (socket !== undefined && request.method === "GET")
      return answerPlainRequestToSocket(services, endpoints[socket.id].access, request, reply);
    const methods = paths.methodsOf(pathname);
    if (methods.length === 0)
      return sendError(reply, new PlatformError("route_not_found", "there is nothing at this path; /docs lists what there is"));
    void reply.header("allow", methods.join(", "));
    return sendError(reply, new PlatformError("method_not_allowed", `${request.method} is not possible here; ${methods.join(" and ")} is`));
  });
}

function pathnameOf(request: FastifyRequest): string {
  return request.url.split("?", 1)[0] ?? "/";
}

/** A plain GET of a WebSocket route: the caller is told what it is, if it may know. */
async function answerPlainRequestToSocket(
  services: Services,
  access: WebSocketAccess,
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<FastifyReply> {
  authorize(await services.authentication.identify(request.raw, request.id), access);
  return sendError(reply, new PlatformError("request_invalid", "this is a WebSocket: connect with `Upgrade: websocket`"));
}

function sendError(reply: FastifyReply, error: PlatformError): FastifyReply {
  if (isE2bPath(pathnameOf(reply.request))) return sendE2bError(reply, error);
  if (error.retryAfterSec !== undefined) void reply.header("retry-after", String(error.retryAfterSec));
  for (const name of ["content-length", "content-range", "etag", "last-modified", "content-disposition"]) void reply.removeHeader(name);
  return reply.code(error.status).type("application/json; charset=utf-8").send(error.toBody());
}

/** What Node's HTTP parser refuses never becomes a request; it is answered on the bare connection. */
function onClientError(error: NodeJS.ErrnoException, socket: Socket): void {
  if (error.code === "ECONNRESET" || socket.destroyed) return void socket.destroy();
  answerRaw(socket, clientErrorAnswer(error.code));
}

function clientErrorAnswer(code: string | undefined): PlatformError {
  switch (code ?? "") {
    case "HPE_HEADER_OVERFLOW":
      return new PlatformError("request_too_large", `the request's path and headers together may have at most ${headerBytesMax / KiB} KiB`);
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new PlatformError("request_invalid", `the request's headers did not arrive within ${headersTimeoutMs / second} s`);
    default:
      return new PlatformError("request_invalid", "this is not an HTTP/1.1 request");
  }
}
