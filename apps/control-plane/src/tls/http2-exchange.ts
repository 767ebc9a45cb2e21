import { request as httpRequest, type IncomingMessage, type Server } from "node:http";
import { constants, type IncomingHttpHeaders, type OutgoingHttpHeaders, type ServerHttp2Stream } from "node:http2";

import { connectWithin, type PeerOf } from "./inner-connection.ts";

const { NGHTTP2_INTERNAL_ERROR, NGHTTP2_NO_ERROR, NGHTTP2_PROTOCOL_ERROR } = constants;

/** About one connection (RFC 9113, 8.2.2): HTTP/2 has none of them */
const ofConnections: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "proxy-connection",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
]);

/** Methods whose requests have no body unless they say so; of others Node says that one comes if nothing else is said */
const mostlyBodiless: ReadonlySet<string> = new Set(["GET", "HEAD", "DELETE", "OPTIONS", "TRACE"]);

/** One stream of HTTP/2. */
export interface Http2Request {
  readonly stream: ServerHttp2Stream;
  readonly headers: IncomingHttpHeaders;
  readonly rawHeaders: readonly string[];
  /** Nothing comes after the headers */
  readonly hasEnded: boolean;
}

/**
 * Has an HTTP/1.1 server of this process answer a stream of HTTP/2: everything behind it, with its limits and deadlines, knows one protocol only. Bytes go through as
 * fast as the slower side takes them. An answer that breaks off is reset, so that nobody takes it for a whole one; a client that resets its stream is gone for the server, too.
 */
export function exchangeWithin(server: Server, peer: PeerOf, { stream, headers, rawHeaders, hasEnded }: Http2Request): void {
  stream.on("error", () => undefined); // its close says as much
  const method = headers[":method"] ?? "";
  const path = headers[":path"];
  if (method === "CONNECT" || path === undefined) {
    stream.respond({ ":status": 501 }, { endStream: true });
    stream.close(NGHTTP2_NO_ERROR);
    return;
  }
  let inner;
  try {
    inner = httpRequest({
      createConnection: () => connectWithin(server, peer),
      method,
      path,
      headers: innerHeaders(headers, rawHeaders, hasEnded),
      setHost: false,
    });
  } catch {
    stream.close(NGHTTP2_PROTOCOL_ERROR); // a path or header that HTTP/1.1 cannot say
    return;
  }
  let isAnswered = false;
  stream.once("close", () => {
    if (!isAnswered || !inner.writableFinished) inner.destroy();
  });
  inner.on("error", () => {
    if (!stream.closed && !isAnswered) stream.close(NGHTTP2_INTERNAL_ERROR);
  });
  inner.on("continue", () => {
    if (!stream.closed && !stream.headersSent) stream.additionalHeaders({ ":status": 100 });
  });
  inner.on("information", ({ statusCode, headers: { link } }) => {
    if (stream.closed || stream.headersSent || (statusCode !== 102 && statusCode !== 103)) return;
    stream.additionalHeaders({ ":status": statusCode, ...(link === undefined ? {} : { link }) });
  });
  inner.on("response", (answer) => {
    answer.on("error", () => stream.close(NGHTTP2_INTERNAL_ERROR));
    answer.once("close", () => {
      if (!answer.complete) stream.close(NGHTTP2_INTERNAL_ERROR);
    });
    answer.once("end", () => (isAnswered = answer.complete));
    passAnswer(answer, stream, method);
  });
  // A client whose stream breaks off has sent no end: neither does the inner request get one
  stream.once("end", () => {
    if (!stream.aborted) inner.end();
  });
  if (hasEnded) {
    stream.resume();
    inner.end();
  } else {
    inner.flushHeaders();
    stream.pipe(inner, { end: false });
  }
}

function passAnswer(answer: IncomingMessage, stream: ServerHttp2Stream, method: string): void {
  if (stream.closed || stream.destroyed) return void answer.destroy();
  const status = answer.statusCode ?? 502;
  const isBodiless = method === "HEAD" || status === 204 || status === 304;
  try {
    stream.respond({ ":status": status, ...outerHeaders(answer.rawHeaders) }, { endStream: isBodiless, waitForTrailers: !isBodiless });
  } catch {
    stream.close(NGHTTP2_INTERNAL_ERROR); // headers that HTTP/2 cannot say
    answer.destroy();
    return;
  }
  if (isBodiless) {
    answer.resume();
    return;
  }
  stream.once("wantTrailers", () => {
    stream.sendTrailers(outerHeaders(answer.rawTrailers));
    // What is left of a body that the server did not read is not wanted (RFC 9113, 8.1)
    setImmediate(() => {
      if (!stream.readableEnded) stream.close(NGHTTP2_NO_ERROR);
    });
  });
  answer.pipe(stream);
}

/** As HTTP/1.1 says the same: names of HTTP/2 become `Host`, pieces of a cookie are one, and the body has a length or says that it has none. */
function innerHeaders(headers: IncomingHttpHeaders, raw: readonly string[], hasEnded: boolean): string[] {
  const list: string[] = [];
  const cookies: string[] = [];
  const authority = headers[":authority"] ?? headers.host;
  if (authority !== undefined) list.push("host", authority);
  for (let index = 0; index < raw.length; index += 2) {
    const name = (raw[index] ?? "").toLowerCase();
    const value = raw[index + 1] ?? "";
    if (name === "cookie") cookies.push(value);
    else if (!name.startsWith(":") && name !== "host" && !ofConnections.has(name) && (name !== "te" || value === "trailers"))
      list.push(name, value);
  }
  if (cookies.length > 0) list.push("cookie", cookies.join("; ")); // RFC 9113, 8.2.3
  if (headers["content-length"] === undefined) {
    if (!hasEnded) list.push("transfer-encoding", "chunked");
    else if (!mostlyBodiless.has(headers[":method"] ?? "")) list.push("content-length", "0");
  }
  list.push("connection", headers.te === "trailers" ? "close, te" : "close");
  return list;
}

/** Headers or trailers as HTTP/2 has them; several of a name stay several. */
function outerHeaders(raw: readonly string[]): OutgoingHttpHeaders {
  const headers: Record<string, string | string[]> = {};
  for (let index = 0; index < raw.length; index += 2) {
    const name = (raw[index] ?? "").toLowerCase();
    const value = raw[index + 1] ?? "";
    if (name.startsWith(":") || ofConnections.has(name)) continue;
    const before = headers[name];
    headers[name] = before === undefined ? value : Array.isArray(before) ? [...before, value] : [before, value];
  }
  return headers;
}
