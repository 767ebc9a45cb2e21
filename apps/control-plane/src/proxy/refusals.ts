import type { IncomingHttpHeaders, IncomingMessage, ServerResponse } from "node:http";

import { guestAgentPort, PlatformError } from "@roost/contract";

import { discardRest } from "./rest-of-body.ts";

/** What the data plane answers itself. Clients compare statuses and bodies: these are the ecosystem's. */
export interface Refusal {
  readonly status: number;
  readonly message: string;
  readonly sandboxId?: string;
  readonly port?: number;
  readonly retryAfterSec?: number;
}

/** A refusal as an error, to end a request that is being carried. */
export class RefusedError extends Error {
  override readonly name = "RefusedError";
  readonly refusal: Refusal;

  constructor(refused: Refusal) {
    super(refused.message);
    this.refusal = refused;
  }
}

export function refusal(status: number, message: string, more: Omit<Refusal, "status" | "message"> = {}): Refusal {
  return { status, message, ...more };
}

export function notFound(sandboxId: string): Refusal {
  return refusal(502, "The sandbox was not found", { sandboxId });
}

export function portClosed(sandboxId: string, port: number): Refusal {
  return refusal(502, "The sandbox is running but port is not open", { sandboxId, port });
}

/** What went wrong on the way to a sandbox, to whoever sent the request. */
export function refusalOf(error: unknown, sandboxId: string | undefined): Refusal {
  if (error instanceof RefusedError) return error.refusal;
  const about = sandboxId === undefined ? {} : { sandboxId };
  if (!(error instanceof PlatformError)) return refusal(500, "something went wrong in the control plane; its log says what", about);
  if (error.code === "sandbox_not_found" && sandboxId !== undefined) return notFound(sandboxId);
  return refusal(error.status, error.message, {
    ...about,
    ...(error.retryAfterSec === undefined ? {} : { retryAfterSec: error.retryAfterSec }),
  });
}

/** Writes a refusal: JSON, or a page for people. Any web page may read it, as it may what the guest agent answers. */
export function sendRefusal(request: IncomingMessage, response: ServerResponse, refused: Refusal): void {
  const { status, message, sandboxId, port, retryAfterSec } = refused;
  const isPage = wantsPage(request.headers);
  const body = isPage
    ? page(refused)
    : JSON.stringify(
        sandboxId === undefined ? { code: status, message } : { sandboxId, message, ...(port === undefined ? {} : { port }), code: status },
      );
  if (!request.complete) response.shouldKeepAlive = false; // what is left of its body is not read
  response.writeHead(status, {
    "content-type": isPage ? "text/html; charset=utf-8" : "application/json; charset=utf-8",
    "content-length": Buffer.byteLength(body),
    "cache-control": "no-store",
    "x-content-type-options": "nosniff",
    "access-control-allow-origin": "*",
    ...(isPage ? { "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'" } : {}),
    ...(retryAfterSec === undefined ? {} : { "retry-after": String(retryAfterSec) }),
  });
  if (request.method !== "HEAD") response.write(body);
  discardRest(request, () => response.end());
}

/** A browser that would show what it gets; programs that only name themselves after one ask for JSON or anything. */
function wantsPage(headers: IncomingHttpHeaders): boolean {
  return headers["user-agent"]?.startsWith("Mozilla/") === true && /\btext\/html\b/.test(headers.accept ?? "");
}

function page({ status, message, sandboxId, port }: Refusal): string {
  const where = sandboxId === undefined ? "" : `<p>Sandbox <code>${escapeHtml(sandboxId)}</code>${portText(port)}</p>`;
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>${status}</title>
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:36em;margin:20vh auto;padding:0 1em;color:#222;background:#fff}
h1{font-size:1.3em}p{color:#666}@media(prefers-color-scheme:dark){body{color:#eee;background:#181818}p{color:#aaa}}</style></head>
<body><h1>${escapeHtml(message)}</h1>${where}<p>${status}</p></body></html>
`;
}

function portText(port: number | undefined): string {
  return port === undefined || port === guestAgentPort ? "" : `, port ${port}`;
}

function escapeHtml(text: string): string {
  return text.replaceAll(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}
