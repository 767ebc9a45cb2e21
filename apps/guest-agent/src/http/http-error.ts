import type { ServerResponse } from "node:http";

/** An answer other than success of the plain HTTP endpoints: `{code, message}`, as the wire has it. */
export class HttpError extends Error {
  override readonly name = "HttpError";
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, cause === undefined ? {} : { cause });
    this.status = status;
  }
}

/** Writes an error; where the answer has begun already the connection is cut, so that half an answer is never taken for one. */
export function sendError(response: ServerResponse, status: number, message: string): void {
  if (response.headersSent) {
    response.destroy();
    return;
  }
  sendJson(response, status, { code: status, message });
}

/** No cache keeps it: it is true of this moment, and for whoever has the token. */
export function sendJson(response: ServerResponse, status: number, body: unknown): void {
  const bytes = Buffer.from(JSON.stringify(body));
  const headers = { "content-type": "application/json", "content-length": bytes.length, "cache-control": "no-store" };
  response.writeHead(status, headers).end(bytes);
}
