import type { IncomingMessage, ServerResponse } from "node:http";

/** Any origin may call: the access token protects, and browsers never send it by themselves. */
const exposedHeaders =
  "Accept-Ranges, Content-Disposition, Content-Encoding, Content-Length, Content-Range, Content-Type, ETag, Grpc-Message, Grpc-Status, Grpc-Status-Details-Bin, Last-Modified, Location";

/** How long in `s` a browser may remember the answer to its preflight. */
const preflightMaxAgeSec = "7200";

export function allowAnyOrigin(response: ServerResponse): void {
  response.setHeader("access-control-allow-origin", "*");
  response.setHeader("access-control-expose-headers", exposedHeaders);
}

/** Answers a preflight. The asked headers are named back, since `*` does not cover Authorization. */
export function answerPreflight(request: IncomingMessage, response: ServerResponse): void {
  response.writeHead(204, {
    "access-control-allow-methods": "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS",
    "access-control-allow-headers": request.headers["access-control-request-headers"] ?? "*",
    "access-control-max-age": preflightMaxAgeSec,
    vary: "Access-Control-Request-Headers",
  });
  response.end();
}
