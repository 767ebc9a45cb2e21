import { request as httpRequest, type IncomingMessage } from "node:http";
import { request as httpsRequest } from "node:https";

import { findPlatformError } from "../guest/guest-errors.ts";
import type { AddressGuard } from "./address-guard.ts";

/** Headers of an answer in `bytes`: more is no answer to a webhook */
const headerBytesMax = 16 * 1024;

/** A message in the form that a receiver takes. */
export interface OutgoingRequest {
  readonly method: "POST" | "PUT";
  readonly url: URL;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** How a receiver took it. Nothing else of its answer is kept or told. */
export type SendOutcome =
  | { readonly isTaken: true; readonly status: number }
  | { readonly isTaken: false; readonly status: number | null; readonly error: string; readonly retryAfterMs: number };

/**
 * Sends one request, to addresses that `guard` allows only, and reads of the answer no more than its head: what comes after it, however long, is cut off with
 * the connection. Redirects are not followed, connections not used again. Rejects only when `signal` aborts.
 */
export async function send(guard: AddressGuard, request: OutgoingRequest, timeoutMs: number, signal: AbortSignal): Promise<SendOutcome> {
  const deadline = AbortSignal.timeout(timeoutMs);
  try {
    guard.requireUrl(request.url);
    const answer = await exchange(guard, request, AbortSignal.any([signal, deadline]));
    const status = answer.statusCode ?? 0;
    answer.on("error", () => undefined);
    answer.destroy();
    if (status >= 200 && status < 300) return { isTaken: true, status };
    return { isTaken: false, status, error: `it answered with status ${status}`, retryAfterMs: retryAfterOf(answer) };
  } catch (error) {
    signal.throwIfAborted();
    const reason = deadline.aborted ? `there was no answer within ${timeoutMs / 1000} s` : reasonOf(error);
    return { isTaken: false, status: null, error: reason, retryAfterMs: 0 };
  }
}

async function exchange(
  guard: AddressGuard,
  { method, url, headers, body }: OutgoingRequest,
  signal: AbortSignal,
): Promise<IncomingMessage> {
  const create = url.protocol === "https:" ? httpsRequest : httpRequest;
  return new Promise((resolve, reject) => {
    const outgoing = create(url, {
      method,
      agent: false,
      lookup: guard.lookup,
      maxHeaderSize: headerBytesMax,
      headers: { ...headers, "content-length": Buffer.byteLength(body), connection: "close" },
      signal,
    });
    outgoing.on("response", resolve);
    // Nobody asked for another protocol
    outgoing.on("upgrade", (answer: IncomingMessage, stream) => {
      stream.destroy();
      resolve(answer);
    });
    outgoing.on("error", reject);
    outgoing.end(body);
  });
}

function retryAfterOf(answer: IncomingMessage): number {
  const text = answer.headers["retry-after"] ?? "";
  return /^\d{1,6}$/.test(text) ? Number(text) * 1000 : 0;
}

/** For the team: says what kind of failure it was, nothing of addresses, names or what is inside. */
function reasonOf(error: unknown): string {
  const known = findPlatformError(error);
  if (known !== undefined) return known.message;
  const code = (error as NodeJS.ErrnoException).code ?? "";
  if (code.startsWith("HPE_")) return "the answer is not HTTP";
  if (/CERT|TLS|SSL|SELF_SIGNED|UNABLE_TO_VERIFY/.test(code)) return "its certificate is not valid";
  return "it could not be connected to";
}
