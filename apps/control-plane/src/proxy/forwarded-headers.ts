import type { IncomingMessage } from "node:http";
import type { TLSSocket } from "node:tls";

import { accessTokenHeader, guestAgentPort } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { cookiesForGuest, refererForGuest } from "./port-grant.ts";
import { expectsContinue } from "./request-body.ts";
import { proxyHeaders } from "./route.ts";

/** Headers as pairs in one list, name after name, as Node's `rawHeaders` are. */
export type HeaderList = string[];

/** Headers of a message; above 2,000 Node leaves some out of `headers`, which would then say something else than what is passed on */
const headersMax = 1_000;

export function hasTooManyHeaders(message: IncomingMessage): boolean {
  return message.rawHeaders.length > 2 * headersMax;
}

/** They are about one connection, and this is where two meet (RFC 9110, 7.6.1; the last two are older clients' and browsers'). */
const hopByHop: ReadonlySet<string> = new Set([
  "connection",
  "keep-alive",
  "te",
  "transfer-encoding",
  "upgrade",
  "http2-settings",
  "proxy-connection",
  "proxy-authorization",
]);

/** Written anew for the guest. */
const rewritten: ReadonlySet<string> = new Set([
  "host",
  "content-length",
  "expect",
  "x-forwarded-for",
  "x-forwarded-host",
  "x-forwarded-proto",
]);

/** How a request said whose it is. By host name, a guest's port is an origin of its own; else its answers have the platform's. */
export type RoutedBy = "headers" | "host" | "signature";

/** What a response with the platform's origin must not do: it comes from a guest, and a browser would take it for the platform's word about itself. */
const originWide: ReadonlySet<string> = new Set([
  "clear-site-data",
  "strict-transport-security",
  "service-worker-allowed",
  "alt-svc",
  "nel",
  "report-to",
]);

/** The same, of one that is opened like a page: a signed URL. */
const ofPages: ReadonlySet<string> = new Set(["set-cookie", "content-security-policy", "x-content-type-options"]);

/** Where a guest believes to be; stands in for a `Host` that an old client did not send. */
const guestAddress = "169.254.0.21";

export interface Forwarding {
  readonly sandbox: SandboxRow;
  readonly port: number;
  /** Protocol that is asked for, where the connection is to become another one */
  readonly upgrade?: string | undefined;
}

/** Whether the client spoke TLS: to here, or to what is in front of here. */
export function isOverTls(request: IncomingMessage): boolean {
  return (request.socket as Partial<TLSSocket>).encrypted === true || request.headers["x-forwarded-proto"] === "https";
}

/** Headers of a request as the guest gets them. `Authorization` and cookies are between client and guest, and pass; but not what opened the port. */
export function requestHeaders(request: IncomingMessage, { sandbox, port, upgrade }: Forwarding): HeaderList {
  const dropped = connectionOptions(request);
  const isForAgent = port === guestAgentPort;
  const headers = filtered(
    request.rawHeaders,
    (name) => {
      // Spent: a program in the guest that passes on a request it got would else send it to itself, and has no use for the right.
      if (proxyHeaders.has(name)) return false;
      if (hopByHop.has(name) || rewritten.has(name) || dropped.has(name)) return false;
      // The access token opens the whole guest: only the agent sees it. And the agent has no use for the platform's keys.
      if (name === accessTokenHeader) return isForAgent && sandbox.is_secure;
      return !(isForAgent && name === "x-api-key");
    },
    withoutGrants,
  );
  const { host } = request.headers;
  const mask = isForAgent ? undefined : (sandbox.network.mask_request_host ?? undefined);
  headers.push("host", mask?.replaceAll("${PORT}", String(port)) ?? host ?? guestAddress);
  if (host !== undefined) headers.push("x-forwarded-host", host);
  const before = request.headers["x-forwarded-for"];
  const client = request.socket.remoteAddress ?? "unknown";
  headers.push("x-forwarded-for", typeof before === "string" ? `${before}, ${client}` : client);
  headers.push("x-forwarded-proto", isOverTls(request) ? "https" : "http");
  if (isForAgent && !sandbox.is_secure) headers.push(accessTokenHeader, sandbox.access_token);
  if (/\btrailers\b/i.test(String(request.headers.te ?? ""))) headers.push("te", "trailers");
  pushFraming(headers, request);
  if (upgrade !== undefined) headers.push("connection", "Upgrade", "upgrade", upgrade);
  return headers;
}

/** Methods whose request has a body, or says that it has none. */
const expectBody: ReadonlySet<string> = new Set(["POST", "PUT", "PATCH"]);

/** The length is said once, in one way, and by what this server understood: nothing is left for the guest's to understand in another one. */
function pushFraming(headers: HeaderList, request: IncomingMessage): void {
  if (request.headers["transfer-encoding"] !== undefined) headers.push("transfer-encoding", "chunked");
  else if (request.headers["content-length"] !== undefined) headers.push("content-length", request.headers["content-length"]);
  else if (expectBody.has(request.method ?? "")) headers.push("content-length", "0");
  if (expectsContinue(request)) headers.push("expect", "100-continue");
}

/** Headers of a guest's response as the client gets them. How it is framed is decided anew; values are checked by Node when they are written. */
export function responseHeaders(response: IncomingMessage, by: RoutedBy): HeaderList {
  const dropped = connectionOptions(response);
  const isBodiless = response.statusCode === 204;
  const headers = filtered(response.rawHeaders, (name) => {
    if (hopByHop.has(name) || dropped.has(name) || (isBodiless && name === "content-length")) return false;
    return by === "host" || !(originWide.has(name) || (by === "signature" && ofPages.has(name)));
  });
  // The same URL with other headers is another sandbox's, or the platform's own: no cache may give one for the other.
  if (by === "headers") headers.push("vary", "E2b-Sandbox-Id, E2b-Sandbox-Port");
  if (by === "signature") headers.push("content-security-policy", "default-src 'none'; sandbox", "x-content-type-options", "nosniff");
  return headers;
}

/** Trailers less those that would be something else if they were headers. */
export function trailersOf(message: IncomingMessage): [string, string][] {
  const list = filtered(
    message.rawTrailers,
    (name) => !hopByHop.has(name) && !rewritten.has(name) && !proxyHeaders.has(name) && name !== accessTokenHeader,
  );
  const pairs: [string, string][] = [];
  for (let index = 0; index < list.length; index += 2) pairs.push([list[index] ?? "", list[index + 1] ?? ""]);
  return pairs;
}

/** Header names that `Connection` makes hop-by-hop. */
function connectionOptions(message: IncomingMessage): ReadonlySet<string> {
  return new Set(
    (message.headers.connection ?? "")
      .toLowerCase()
      .split(",")
      .map((name) => name.trim()),
  );
}

/** What opened a port is spent, as its token is. */
function withoutGrants(name: string, value: string): string | undefined {
  if (name === "cookie") return cookiesForGuest(value);
  return name === "referer" ? refererForGuest(value) : value;
}

/** `valueOf`: undefined: it is left out, too */
function filtered(
  raw: readonly string[],
  isKept: (name: string) => boolean,
  valueOf: (name: string, value: string) => string | undefined = (_name, value) => value,
): HeaderList {
  const kept: HeaderList = [];
  for (let index = 0; index < raw.length; index += 2) {
    const name = raw[index] ?? "";
    const value = isKept(name.toLowerCase()) ? valueOf(name.toLowerCase(), raw[index + 1] ?? "") : undefined;
    if (value !== undefined) kept.push(name, value);
  }
  return kept;
}
