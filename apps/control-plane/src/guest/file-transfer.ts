import { request as httpRequest, type ClientRequest, type IncomingMessage } from "node:http";
import { Transform, type Readable } from "node:stream";
import { pipeline } from "node:stream/promises";

import { fileBytesMax, PlatformError } from "@roost/contract";
import { formatBytes, minute, second } from "@roost/kit";

import { findPlatformError, guestUnreachable, quoteGuest } from "./guest-errors.ts";
import { guestRequestOptions, type Guest } from "./guest.ts";

/** Longest wait for the guest's first word in `ms`, once it has the whole request */
const answerTimeoutMs = 60 * second;
/** A transfer in which nothing moves for this long in `ms` is over, whoever is stuck */
export const transferStallMs = 5 * minute;
/** What is read of a guest's error text in `bytes` */
const errorBodyBytesMax = 64 * 1024;

export interface FileRequest {
  readonly path: string;
  readonly user?: string | undefined;
  readonly signal: AbortSignal;
}

/**
 * Opens a file of a guest for reading: the guest's answer, 200 or 206, its body not yet read. `HEAD` has no body.
 * Reading goes as fast as the reader and no faster; destroying the answer ends it.
 */
export async function readFile(
  guest: Guest,
  file: FileRequest & { readonly method: "GET" | "HEAD"; readonly range?: string | undefined; readonly ifRange?: string | undefined },
): Promise<IncomingMessage> {
  const request = httpRequest({
    ...guestRequestOptions(guest, filesUrl(file)),
    method: file.method,
    signal: file.signal,
    headers: {
      ...guest.headers(file.user),
      "accept-encoding": "identity",
      ...(file.range === undefined ? {} : { range: file.range }),
      ...(file.ifRange === undefined ? {} : { "if-range": file.ifRange }),
    },
  });
  request.end();
  const answer = await answerOf(request);
  if (answer.statusCode === 200 || answer.statusCode === 206) return answer;
  throw await errorFrom(answer, file.path);
}

/** Writes a file of a guest from `body`, as a whole or not at all. */
export async function writeFile(
  guest: Guest,
  file: FileRequest & { readonly body: Readable; readonly contentLength?: number | undefined },
): Promise<void> {
  const request = httpRequest({
    ...guestRequestOptions(guest, filesUrl(file)),
    method: "POST",
    signal: file.signal,
    headers: {
      ...guest.headers(file.user),
      "content-type": "application/octet-stream",
      ...(file.contentLength === undefined ? {} : { "content-length": String(file.contentLength) }),
    },
  });
  const answering = answerOf(request, false);
  const sending = pipeline(file.body, limitBytes(fileBytesMax), request).then(
    () => undefined,
    (error: unknown) => ({ error }),
  );
  // The guest may refuse before it has read everything (no space, no such user): its answer counts then.
  const first = await Promise.race([answering.catch((error: unknown) => ({ error })), sending]);
  if (first !== undefined && "error" in first) {
    request.destroy();
    await answering.catch(() => undefined);
    throw findPlatformError(first.error) ?? (file.signal.aborted ? first.error : guestUnreachable(first.error));
  }
  const timer = setTimeout(() => request.destroy(guestUnreachable("no answer to an upload")), answerTimeoutMs);
  try {
    const answer = await answering;
    if (answer.statusCode !== 200) throw await errorFrom(answer, file.path);
    await readStart(answer); // to its end, so that the connection can be used again
  } catch (error) {
    request.destroy();
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

function filesUrl(file: FileRequest): string {
  const query = new URLSearchParams({ path: file.path, ...(file.user === undefined ? {} : { username: file.user }) });
  return `/files?${query.toString()}`;
}

async function answerOf(request: ClientRequest, withDeadline = true): Promise<IncomingMessage> {
  const timer = withDeadline ? setTimeout(() => request.destroy(guestUnreachable("no answer")), answerTimeoutMs) : undefined;
  try {
    return await new Promise<IncomingMessage>((resolve, reject) => {
      request.once("response", resolve);
      request.on("error", (error) => reject(findPlatformError(error) ?? guestUnreachable(error)));
    });
  } finally {
    clearTimeout(timer);
  }
}

function limitBytes(bytesMax: number): Transform {
  let bytes = 0;
  return new Transform({
    transform(chunk: Buffer, _encoding, done) {
      bytes += chunk.length;
      if (bytes <= bytesMax) return done(null, chunk);
      done(new PlatformError("request_too_large", `a file may have at most ${formatBytes(bytesMax)}`));
    },
  });
}

/** What an answer other than success means. The guest's own words are passed on, within limits. */
async function errorFrom(answer: IncomingMessage, path: string): Promise<PlatformError> {
  const said = quoteGuest(messageIn(await readStart(answer)));
  const because = said === "" ? "" : `: ${said}`;
  switch (answer.statusCode ?? 0) {
    case 400:
    case 406:
      return new PlatformError("path_invalid", said === "" ? `${path} cannot be used` : said);
    case 401:
      if (said.includes("username")) return new PlatformError("user_unknown", said);
      return new PlatformError("guest_error", `the guest agent refused access${because}`);
    case 404:
      return new PlatformError("file_not_found", said === "" ? `there is no file ${path}` : said);
    case 413:
      return new PlatformError("request_too_large", said === "" ? "the file is too large" : said);
    case 416:
      return new PlatformError("range_not_satisfiable", said === "" ? "the range is outside the file" : said);
    case 507:
      return new PlatformError("guest_disk_full", said === "" ? "the sandbox's disk is full" : said);
    default:
      return new PlatformError("guest_error", `the guest agent answered ${answer.statusCode}${because}`);
  }
}

async function readStart(answer: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  try {
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      chunks.push(chunk);
      bytes += chunk.length;
      if (bytes > errorBodyBytesMax) break; // leaving the loop destroys the answer
    }
  } catch {
    // cut off: what came is enough for a message
  }
  return Buffer.concat(chunks).subarray(0, errorBodyBytesMax).toString("utf8");
}

function messageIn(body: string): string {
  try {
    const parsed = JSON.parse(body) as { readonly message?: unknown };
    return typeof parsed.message === "string" ? parsed.message : "";
  } catch {
    return body;
  }
}
