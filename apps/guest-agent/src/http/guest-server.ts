import type { IncomingMessage, Server, ServerResponse } from "node:http";

import { ConnectError } from "@connectrpc/connect";
import { accessTokenHeader } from "@roost/contract";
import { hour, minute, second, type Logger } from "@roost/kit";

import type { GuestContext } from "../context.ts";
import { connectStatus } from "./connect-status.ts";
import { allowAnyOrigin, answerPreflight } from "./cors.ts";
import type { ConnectHandler } from "./connect-routes.ts";
import { HttpError, sendError } from "./http-error.ts";

/** Not by import: that asks node:http for all it has, its WebSocket too, and so loads all of `fetch`: a sixth of the agent's start. */
const { createServer } = process.getBuiltinModule("node:http");

/** Connections at once; the host keeps a few, proxied clients some more. Above it new ones are closed. */
const connectionsMax = 2048;
/** Time in `ms` for the head of a request: slower is no client of ours. */
const headersTimeoutMs = 30 * second;
/** Time in `ms` a connection may wait for its next request; longer than any proxy in front keeps it. */
const keepAliveTimeoutMs = 640 * second;
/** Time in `ms` without a byte of a body after which a request is given up: a stuck upload must not stay for ever. */
const bodyIdleTimeoutMs = hour;
/** First keepalive probe of an idle TCP connection in `ms`: a client that vanished without a FIN is found out. */
const tcpKeepAliveMs = minute;
const headerBytesMax = 32 * 1024;

/** `url` parses the target; most handlers need no more of it than the path they were found by. */
export type PlainHandler = (request: IncomingMessage, response: ServerResponse, url: () => URL) => Promise<void> | void;

/** An endpoint that is not a Connect method. */
export interface PlainRoute {
  readonly methods: readonly string[];
  readonly handle: PlainHandler;
  /** `checked`: the access token as header; `own`: the handler decides who may pass */
  readonly access: "checked" | "own";
}

export interface GuestServerParts {
  readonly context: GuestContext;
  readonly plain: ReadonlyMap<string, PlainRoute>;
  readonly connect: ReadonlyMap<string, ConnectHandler>;
}

/** The HTTP server: finds the route, checks the token, and turns every failure into an answer. HTTP/1.1 only. */
export function createGuestServer(parts: GuestServerParts): Server {
  const server = createServer({
    maxHeaderSize: headerBytesMax,
    headersTimeout: headersTimeoutMs,
    requestTimeout: 0, // uploads and input streams take as long as they take, see bodyIdleTimeoutMs
    keepAliveTimeout: keepAliveTimeoutMs,
    keepAlive: true,
    keepAliveInitialDelay: tcpKeepAliveMs,
    noDelay: true,
  });
  server.maxConnections = connectionsMax;
  server.on("request", (request: IncomingMessage, response: ServerResponse) => {
    void answer(parts, request, response).catch((error: unknown) => answerError(parts.context.log, request, response, error));
  });
  return server;
}

async function answer(parts: GuestServerParts, request: IncomingMessage, response: ServerResponse): Promise<void> {
  // Streams of output are silent for long and have no body left; only a body that stalls counts.
  request.setTimeout(bodyIdleTimeoutMs, () => {
    if (!request.complete) request.destroy();
  });
  allowAnyOrigin(response);
  if (request.method === "OPTIONS") {
    answerPreflight(request, response);
    return;
  }
  const target = request.url ?? "/";
  const path = target.split("?", 1)[0] ?? "/";
  const plain = parts.plain.get(path);
  if (plain?.access !== "own" && !parts.context.mayPass(request.headers[accessTokenHeader])) {
    throw new HttpError(401, "invalid access token");
  }
  if (plain !== undefined) {
    if (!plain.methods.includes(request.method ?? "")) throw new HttpError(405, `${path} takes ${plain.methods.join(", ")}`);
    await plain.handle(request, response, () => parseTarget(target));
    return;
  }
  const connect = parts.connect.get(path);
  if (connect === undefined) throw new HttpError(404, "there is no such endpoint");
  await connect(request, response);
}

/** Only path and query count; the host of an absolute target does not. */
function parseTarget(target: string): URL {
  try {
    return new URL(target, "http://guest");
  } catch (error) {
    throw new HttpError(400, "the request target is not a valid URL", error);
  }
}

function answerError(log: Logger, request: IncomingMessage, response: ServerResponse, error: unknown): void {
  if (response.destroyed) return;
  // A body we did not read would be taken for the next request: end the connection with the answer.
  if (!request.complete && !response.headersSent) response.setHeader("connection", "close");
  if (error instanceof HttpError) sendError(response, error.status, error.message);
  else if (error instanceof ConnectError) sendError(response, connectStatus(error.code), error.rawMessage);
  else {
    log.error({ err: error, method: request.method, url: request.url }, "request failed");
    sendError(response, 500, "internal error of the guest agent");
  }
}
