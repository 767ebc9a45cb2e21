import type { IncomingMessage, ServerResponse } from "node:http";

import { discardRest } from "./rest-of-body.ts";

/** How long in `s` a browser may remember the answer; as the guest agent has it */
const maxAgeSec = "7200";

/**
 * Tells a browser that a page may send what it asked for: headers that the proxy wants. The server in the guest cannot be asked, because a preflight
 * carries neither the sandbox's id nor the token that opens it. Nothing is given away: no browser sends those by itself, and whether the page may read
 * the answer the guest's server still decides.
 */
export function answerPreflight(request: IncomingMessage, response: ServerResponse): void {
  response.writeHead(204, {
    "access-control-allow-origin": "*",
    "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": request.headers["access-control-request-headers"] ?? "", // `*` does not cover Authorization
    "access-control-max-age": maxAgeSec,
    vary: "Access-Control-Request-Headers",
  });
  discardRest(request, () => response.end());
}
