import type { IncomingMessage } from "node:http";

/** Whether a request has a body, of whatever length. */
export function hasBody(request: IncomingMessage): boolean {
  return request.headers["transfer-encoding"] !== undefined || Number(request.headers["content-length"] ?? "0") > 0;
}

/** Whether the client sends its body only when it is told to. */
export function expectsContinue(request: IncomingMessage): boolean {
  return request.headers.expect?.toLowerCase() === "100-continue" && hasBody(request);
}
