import type { IncomingMessage } from "node:http";

import type { HeaderRule } from "@roost/contract";

/** Headers as one list, name after name and value, as Node's `rawHeaders` are: order and repetitions stay. */
export type HeaderList = string[];

/** They are about one connection, and this is where two meet (RFC 9110, 7.6.1, and what older clients send). */
const hopByHop: ReadonlySet<string> = new Set([
  "connection",
  "http2-settings",
  "keep-alive",
  "proxy-authenticate",
  "proxy-authorization",
  "proxy-connection",
  "te",
  "transfer-encoding",
  "upgrade",
]);

/** Said anew for the server. `Host` is the name that the guest's connection is for: anything else was refused. */
const rewritten: ReadonlySet<string> = new Set(["content-length", "expect", "host", "trailer"]);

/** A server's offer of other ways to it, which would lead around here. */
const elsewhere = "alt-svc";

/** Of others a server may want to be told that there is no body. */
const mostlyWithoutBody: ReadonlySet<string> = new Set(["GET", "HEAD", "DELETE", "OPTIONS"]);

/** Above it Node leaves some out of what it shows, and what is checked would not be what is passed on. */
const headersMax = 1_000;

/** What is wrong with a request that came over a connection for `name`; undefined: it may be passed on. The guest wrote this. */
export function whyRefused(request: IncomingMessage, name: string): { readonly status: number; readonly why: string } | undefined {
  const { method = "", url = "", rawHeaders } = request;
  if (rawHeaders.length > 2 * headersMax) return { status: 431, why: "it has too many headers" };
  // It would be answered with the request, and all that was set on it
  if (method === "TRACE" || method === "TRACK") return { status: 405, why: `${method} is not passed on` };
  if (!url.startsWith("/") && !(url === "*" && method === "OPTIONS")) return { status: 400, why: "its target must be a path" };
  const hosts = rawHeaders.filter((_, index) => index % 2 === 1 && rawHeaders[index - 1]?.toLowerCase() === "host");
  if (hosts.length !== 1) return { status: 400, why: "it must have one Host header" };
  const host = /^([^:]+?)\.?(?::443)?$/.exec(hosts[0]?.toLowerCase() ?? "")?.[1];
  if (host !== name) return { status: 421, why: `its Host is not ${name}, which its connection is for` };
  return undefined;
}

/** Headers of a request as its server gets them: the guest's, and in place of those that the rule sets, the rule's. */
export function requestHeaders(request: IncomingMessage, name: string, rule: HeaderRule, upgrade?: string): HeaderList {
  const set = new Set(Object.keys(rule.headers).map((header) => header.toLowerCase()));
  const headers = ["host", name, ...passedOn(request.rawHeaders, (header) => !rewritten.has(header) && !set.has(header))];
  const { "content-length": length, "transfer-encoding": encoding, expect } = request.headers;
  if (upgrade !== undefined) headers.push("connection", "Upgrade", "upgrade", upgrade);
  else if (encoding !== undefined) headers.push("transfer-encoding", "chunked");
  else if (length !== undefined) headers.push("content-length", length);
  else if (!mostlyWithoutBody.has(request.method ?? "")) headers.push("content-length", "0");
  if (expect?.toLowerCase() === "100-continue") headers.push("expect", "100-continue");
  for (const [header, value] of Object.entries(rule.headers)) headers.push(header, value);
  return headers;
}

/** Headers of an answer as the guest gets them. A redirection stays what it is: the guest follows it, and where it leads no rule of this name holds. */
export function responseHeaders(response: IncomingMessage, upgrade?: string): HeaderList {
  const headers = passedOn(response.rawHeaders, (header) => header !== elsewhere);
  return upgrade === undefined ? headers : [...headers, "connection", "Upgrade", "upgrade", upgrade];
}

/** Without what is about the connection, as the message itself says. */
function passedOn(rawHeaders: readonly string[], isWanted: (name: string) => boolean): HeaderList {
  const options = new Set<string>();
  const each = (visit: (name: string, header: string, value: string) => void) => {
    for (let index = 0; index + 1 < rawHeaders.length; index += 2) {
      const header = rawHeaders[index] ?? "";
      visit(header.toLowerCase(), header, rawHeaders[index + 1] ?? "");
    }
  };
  each((name, _, value) => {
    if (name === "connection") for (const option of value.split(",")) options.add(option.trim().toLowerCase());
  });
  const kept: HeaderList = [];
  each((name, header, value) => {
    if (!hopByHop.has(name) && !options.has(name) && isWanted(name)) kept.push(header, value);
  });
  return kept;
}
