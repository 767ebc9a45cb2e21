import type { IncomingHttpHeaders } from "node:http";

import { e2bTrafficTokenHeader, fileSignatureParameter, sandboxIdPattern, trafficTokenHeader } from "@roost/contract";

/**
 * Whose request is it? One port serves the control plane and the guests of all sandboxes; what a request says of itself decides,
 * before anything is looked up:
 *
 *     E2b-Sandbox-Id and E2b-Sandbox-Port ──▶ that port of that sandbox           (SDKs with one address for all sandboxes)
 *     OPTIONS that asks for such headers  ──▶ answered here                       (browsers, see preflight.ts)
 *     Host: <port>-<sandbox id>.<domain>  ──▶ that port of that sandbox           (browsers, SDKs with a wildcard domain)
 *     /files?…&signature=…                ──▶ whichever sandbox made the signature (URLs handed out, see signed-files.ts)
 *     everything else                     ──▶ control plane
 */
export type ProxyRoute =
  | { readonly kind: "control" }
  | { readonly kind: "sandbox"; readonly sandboxId: string; readonly port: number; readonly by: "headers" | "host" }
  | { readonly kind: "signed-file" }
  | { readonly kind: "preflight" }
  /** It means a sandbox, but in no form that can be followed. `message` is for its sender. */
  | { readonly kind: "invalid"; readonly message: string };

export const sandboxIdHeader = "e2b-sandbox-id";
export const sandboxPortHeader = "e2b-sandbox-port";

/** They tell the proxy where to and by which right; no guest sees them. */
export const proxyHeaders: ReadonlySet<string> = new Set([sandboxIdHeader, sandboxPortHeader, e2bTrafficTokenHeader, trafficTokenHeader]);

/** `<port>-<sandbox id>`, maybe with `-<client id>` as older SDKs write it, and a domain. A port in `Host` is part of the domain here. */
const hostPattern = /^(?<port>\d{1,5})-(?<id>[a-z0-9]+)(?:-[a-z0-9]+)?\.[^.]/;

const control: ProxyRoute = { kind: "control" };

/** Pure. `target` is the request target as it came. */
export function routeRequest(method: string, target: string, headers: IncomingHttpHeaders): ProxyRoute {
  const route = routeByHeaders(headers) ?? routeOfPreflight(method, headers) ?? routeByHost(headers.host) ?? routeByTarget(target);
  // The form for forward proxies, which this is none: its host could say something else than `Host`.
  if (route.kind === "sandbox" && !target.startsWith("/")) return invalid("the request's target must be a path");
  return route;
}

function routeByHeaders(headers: IncomingHttpHeaders): ProxyRoute | undefined {
  const sandboxId = headers[sandboxIdHeader];
  const port = headers[sandboxPortHeader];
  if (sandboxId === undefined && port === undefined) return undefined;
  if (typeof sandboxId !== "string" || !sandboxIdPattern.test(sandboxId)) {
    return invalid("E2b-Sandbox-Id must be the id of a sandbox: lower-case letters and digits");
  }
  const parsed = typeof port === "string" ? parsePort(port) : undefined;
  if (parsed === undefined) return invalid("E2b-Sandbox-Port must be a port of the sandbox: a number from 1 to 65535");
  return { kind: "sandbox", sandboxId, port: parsed, by: "headers" };
}

function routeByHost(host: string | undefined): ProxyRoute | undefined {
  const parts = hostPattern.exec(host?.toLowerCase() ?? "")?.groups;
  if (parts === undefined) return undefined;
  const { port = "", id = "" } = parts;
  const parsed = parsePort(port);
  if (parsed === undefined || !sandboxIdPattern.test(id)) {
    return invalid("the host name must be <port>-<sandbox id>.<domain>, with a port from 1 to 65535");
  }
  return { kind: "sandbox", sandboxId: id, port: parsed, by: "host" };
}

function parsePort(text: string): number | undefined {
  if (!/^[1-9]\d{0,4}$/.test(text)) return undefined;
  const port = Number(text);
  return port <= 65_535 ? port : undefined;
}

/** A preflight names the headers of the request to come, and has none of them. */
function routeOfPreflight(method: string, headers: IncomingHttpHeaders): ProxyRoute | undefined {
  if (method !== "OPTIONS" || headers["access-control-request-method"] === undefined) return undefined;
  const names = (headers["access-control-request-headers"] ?? "").toLowerCase().split(",");
  return names.some((name) => proxyHeaders.has(name.trim())) ? { kind: "preflight" } : undefined;
}

function routeByTarget(target: string): ProxyRoute {
  const isSigned = target.startsWith("/files?") && new URLSearchParams(target.slice("/files?".length)).has(fileSignatureParameter);
  return isSigned ? { kind: "signed-file" } : control;
}

function invalid(message: string): ProxyRoute {
  return { kind: "invalid", message };
}
