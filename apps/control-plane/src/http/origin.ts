import type { IncomingHttpHeaders } from "node:http";

import { PlatformError } from "@roost/contract";

/**
 * Refuses a WebSocket that some other web page opens with its visitor's rights: browsers always send `Origin` with an
 * upgrade, and no CORS rule protects sockets. Programs send none, and are fine.
 */
export function checkOrigin(headers: IncomingHttpHeaders, allowedOrigins: readonly string[]): void {
  const { origin } = headers;
  if (origin === undefined || isOwnOrigin(origin, headers.host, allowedOrigins)) return;
  throw new PlatformError(
    "origin_forbidden",
    "WebSockets from this origin are not allowed; an operator can allow it with ROOST_ALLOWED_ORIGINS",
  );
}

/**
 * Refuses what some other web page asks for with its visitor's cookie. Browsers send `Origin` with everything that changes something, so what comes
 * with a cookie and without `Origin` is not from a page of ours either.
 */
export function requireSameOrigin(headers: IncomingHttpHeaders, allowedOrigins: readonly string[]): void {
  if (headers.origin !== undefined && isOwnOrigin(headers.origin, headers.host, allowedOrigins)) return;
  throw new PlatformError(
    "origin_forbidden",
    "with a session's cookie, changes are made only by pages of this platform (header `Origin`); programs send `Authorization: Bearer`",
  );
}

function isOwnOrigin(origin: string, host: string | undefined, allowedOrigins: readonly string[]): boolean {
  const parsed = URL.canParse(origin) ? new URL(origin) : undefined;
  const isSame =
    parsed !== undefined && (parsed.protocol === "http:" || parsed.protocol === "https:") && parsed.host === host?.toLowerCase();
  return isSame || allowedOrigins.includes(origin);
}
