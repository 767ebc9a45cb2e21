import type { IncomingHttpHeaders } from "node:http";

import { PlatformError } from "@roost/contract";

/**
 * Refuses a WebSocket that some other web page opens with its visitor's rights: browsers always send `Origin` with an
 * upgrade, and no CORS rule protects sockets. Programs send none, and are fine.
 */
export function checkOrigin(headers: IncomingHttpHeaders, allowedOrigins: readonly string[]): void {
  const origin = headers.origin;
  if (origin === undefined) return;
  const parsed = URL.canParse(origin) ? new URL(origin) : undefined;
  const isSame =
    parsed !== undefined && (parsed.protocol === "http:" || parsed.protocol === "https:") && parsed.host === headers.host?.toLowerCase();
  if (!isSame && !allowedOrigins.includes(origin)) {
    throw new PlatformError(
      "origin_forbidden",
      "WebSockets from this origin are not allowed; an operator can allow it with ROOST_ALLOWED_ORIGINS",
    );
  }
}
