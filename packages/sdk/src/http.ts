import { Agent as HttpAgent, request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { PassThrough, Readable, pipeline } from "node:stream";

import { errorBodySchema, idempotencyKeyHeader } from "@roost/contract";

import type { Connection, RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";

/**
 * HTTP through node:http rather than fetch: fetch gives up on an answer after five minutes, which a foreground command
 * may take, and its bodies cost a copy more.
 */

/** Longest JSON answer that is read in `bytes`; the longest legal one is a file listing of 100 000 entries. */
const jsonBytesMax = 128 * 1024 * 1024;
/** Longest error body that is read in `bytes`. */
const errorBytesMax = 64 * 1024;
const keepAliveMs = 15_000;

const agents = {
  "http:": new HttpAgent({ keepAlive: true, keepAliveMsecs: keepAliveMs, maxFreeSockets: 16 }),
  "https:": new HttpsAgent({ keepAlive: true, keepAliveMsecs: keepAliveMs, maxFreeSockets: 16 }),
};

export interface HttpRequest {
  readonly method: string;
  readonly url: URL;
  /** Text is JSON; a stream is sent as it comes. */
  readonly body?: string | Readable | undefined;
  readonly headers?: Readonly<Record<string, string>>;
}

/** Sends a request; resolves with the answer's head when its status is 2xx, otherwise rejects with a `RoostError`. */
export async function send(connection: Connection, request: HttpRequest, options: RequestOptions): Promise<IncomingMessage> {
  const body = request.body;
  try {
    const answer = await sendOnce(connection, request, options);
    const status = answer.statusCode ?? 0;
    if (status >= 200 && status < 300) return answer;
    throw await errorOf(answer);
  } catch (error) {
    if (body instanceof Readable) body.destroy();
    // The server may close an idle connection at the moment we use it; a request that may be sent twice is simply sent again.
    const mayBeRepeated = request.method === "GET" || (options.idempotencyKey !== undefined && typeof request.body !== "object");
    const isSafe = mayBeRepeated && error instanceof StaleSocketError;
    if (isSafe) return send(connection, request, options);
    throw error instanceof StaleSocketError ? error.cause : error;
  }
}

class StaleSocketError extends Error {}
class SourceError extends Error {}

async function sendOnce(connection: Connection, request: HttpRequest, options: RequestOptions): Promise<IncomingMessage> {
  options.signal?.throwIfAborted();
  const timeoutMs = options.timeoutMs ?? connection.timeoutMs;
  const { body } = request;
  const { protocol } = request.url;
  const create = protocol === "https:" ? httpsRequest : httpRequest;
  const outgoing = create(request.url, {
    method: request.method,
    agent: protocol === "https:" ? agents["https:"] : agents["http:"],
    headers: {
      ...connection.headers,
      ...(typeof body === "string" ? { "content-type": "application/json", "content-length": Buffer.byteLength(body) } : {}),
      ...(options.idempotencyKey === undefined ? {} : { [idempotencyKeyHeader]: options.idempotencyKey }),
      ...request.headers,
    },
  });

  return new Promise<IncomingMessage>((resolve, reject) => {
    let timer: NodeJS.Timeout | undefined;
    const startTimer = () => {
      timer = setTimeout(() => outgoing.destroy(timeoutError(request, timeoutMs)), timeoutMs);
    };
    const onAbort = () => outgoing.destroy(options.signal?.reason as Error);
    options.signal?.addEventListener("abort", onAbort, { once: true });
    const forget = () => {
      clearTimeout(timer);
      options.signal?.removeEventListener("abort", onAbort);
    };
    outgoing.on("response", (answer) => {
      clearTimeout(timer);
      answer.once("close", forget);
      // A stream broken by an abort should say so, not "aborted".
      answer.on("error", () => undefined);
      resolve(answer);
    });
    outgoing.on("error", (error) => {
      forget();
      reject(explain(error, outgoing, connection.url, options.signal));
    });
    sendBody(outgoing, body, startTimer);
  });
}

/** The answer's deadline starts when the whole body is out: an upload may take as long as it moves. */
function sendBody(outgoing: ClientRequest, body: string | Readable | undefined, onSent: () => void): void {
  if (!(body instanceof Readable)) {
    onSent();
    outgoing.end(body);
    return;
  }
  const closed = new Promise<void>((resolve) => outgoing.once("close", resolve));
  const copy = async () => {
    for await (const chunk of body as AsyncIterable<Uint8Array>) {
      if (outgoing.destroyed) return; // answered early, or gone: the rest does not matter any more
      if (!outgoing.write(chunk)) await Promise.race([new Promise((resolve) => outgoing.once("drain", resolve)), closed]);
    }
    outgoing.end(onSent);
  };
  copy().catch((error: unknown) => outgoing.destroy(new SourceError("the source of the body failed", { cause: error })));
}

function explain(error: Error, outgoing: ClientRequest, url: URL, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted === true) return signal.reason;
  if (error instanceof RoostError) return error;
  if (error instanceof SourceError) return error.cause;
  const code = (error as NodeJS.ErrnoException).code;
  if (code === "ECONNRESET" || code === "EPIPE") {
    const lost = new RoostError("connection_lost", `${url.origin} closed the connection before it answered`, { cause: error });
    return outgoing.reusedSocket ? new StaleSocketError("stale", { cause: lost }) : lost;
  }
  return new RoostError("connection_failed", `cannot reach ${url.origin}: ${describe(error)}`, { cause: error });
}

/** Node reports failed dual-stack dials as an aggregate without a message. */
export function describe(error: Error): string {
  if (error instanceof AggregateError) return error.errors.map((inner) => (inner as Error).message).join("; ");
  return error.message;
}

function timeoutError(request: HttpRequest, timeoutMs: number): RoostError {
  return new RoostError("client_timeout", `${request.method} ${request.url.pathname} was not answered within ${timeoutMs / 1000} s`);
}

/** The answer's bytes; when they end too early the stream fails with a `RoostError` or the signal's reason. */
export function bodyOf(answer: IncomingMessage, signal: AbortSignal | undefined): Readable {
  const body = new PassThrough({ highWaterMark: 256 * 1024 });
  answer.once("error", (error) => {
    const reason: unknown = signal?.reason;
    const lost = new RoostError("connection_lost", "the connection ended before the whole answer had come", { cause: error });
    body.destroy(signal?.aborted === true && reason instanceof Error ? reason : lost);
  });
  pipeline(answer, body, () => undefined); // after the listener, which knows the better error
  return body;
}

/** The error in an answer's body, or one made of its status when it is not ours (a gateway's page). */
export async function errorOf(answer: IncomingMessage): Promise<RoostError> {
  const status = answer.statusCode ?? 0;
  const retryAfter = Number(answer.headers["retry-after"]);
  const requestId = answer.headers["x-request-id"];
  const options = {
    status,
    requestId: typeof requestId === "string" ? requestId : undefined,
    retryAfterSec: Number.isFinite(retryAfter) ? retryAfter : undefined,
  };
  const text = await readText(answer, errorBytesMax).catch(() => "");
  const parsed = parseError(text);
  if (parsed !== undefined) return new RoostError(parsed.code, parsed.message, options);
  return new RoostError("answer_invalid", `the server answered ${status} ${answer.statusMessage ?? ""} without saying why`.trim(), options);
}

function parseError(text: string): { code: string; message: string } | undefined {
  try {
    const json: unknown = JSON.parse(text);
    const known = errorBodySchema.safeParse(json);
    if (known.success) return known.data.error;
    const { error } = json as { error?: { code?: unknown; message?: unknown } };
    if (typeof error?.code === "string" && typeof error.message === "string") return { code: error.code, message: error.message };
  } catch {
    // not JSON: the caller makes an error of the status
  }
  return undefined;
}

export async function readJson(answer: IncomingMessage): Promise<unknown> {
  const text = await readText(answer, jsonBytesMax);
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new RoostError("answer_invalid", "the server's answer is not JSON", { status: answer.statusCode ?? 0, cause: error });
  }
}

async function readText(answer: IncomingMessage, bytesMax: number): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      bytes += chunk.length;
      if (bytes > bytesMax) throw new RoostError("answer_invalid", `the server's answer is longer than ${bytesMax} bytes`);
      chunks.push(chunk);
    }
  } catch (error) {
    if (error instanceof RoostError) throw error;
    throw new RoostError("connection_lost", "the connection ended in the middle of the answer", { cause: error });
  }
  return Buffer.concat(chunks).toString("utf8");
}
