import type { IncomingMessage, ServerResponse } from "node:http";

import { accessTokenHeader, fileSignatureParameter, readSignedFile, type FileOperation } from "@roost/contract";
import { MiB, minute, second } from "@roost/kit";

import type { GuestContext } from "../context.ts";
import { basicUserName, type GuestUser } from "../users/users.ts";
import { composeFiles, readComposeRequest } from "./compose.ts";
import { sendFile } from "./download.ts";
import { HttpError, sendJson } from "../http/http-error.ts";
import { answerForError } from "./answer-for-error.ts";
import { verifySignature } from "./signature.ts";
import { receiveFiles } from "./upload.ts";

/** A transfer on which nothing moves for this long in `ms` is cut: its peer is gone, and could not say so. */
const transferIdleMs = 10 * minute;
/**
 * What is still read of a body after the answer is known, in `bytes` and `ms`: a client that is sending does not look
 * for an answer, and a connection cut under its hands would hide the reason from it.
 */
const discardedBytesMax = 64 * MiB;
const discardMs = 10 * second;

/**
 * `/files` and `/files/compose`: the bytes of files over plain HTTP.
 *
 * Opened by the sandbox's token or, for one file and one operation, by a signature made with it. As in the RPCs, the
 * agent acts as root and gives what it makes to the acting user (see createFilesystemService).
 */
export async function handleFiles(request: IncomingMessage, response: ServerResponse, url: URL, context: GuestContext): Promise<void> {
  request.socket.setTimeout(transferIdleMs); // Node then cuts the connection, and sets its own time between requests
  try {
    await dispatch(request, response, url, context);
  } catch (error) {
    fail(request, response, error, url.searchParams.get("path") ?? "", context);
  }
}

async function dispatch(request: IncomingMessage, response: ServerResponse, url: URL, context: GuestContext): Promise<void> {
  const isCompose = url.pathname === "/files/compose";
  if (!isCompose && url.pathname !== "/files") throw new HttpError(404, "no such route");
  const path = url.searchParams.get("path") ?? undefined;
  const username = url.searchParams.get("username") ?? undefined;
  if (isCompose && request.method === "POST") {
    requireToken(request, context);
    const asked = await readComposeRequest(request);
    const user = actingUser(request, context, asked.username);
    const expand = (written: string) => context.expandPath(written, user);
    sendJson(response, 200, await composeFiles(asked.source_paths.map(expand), expand(asked.destination), user));
  } else if (!isCompose && (request.method === "GET" || request.method === "HEAD")) {
    authorize(request, url, context, "read");
    const user = actingUser(request, context, username);
    await sendFile(context.expandPath(path ?? "", user), request, response);
  } else if (!isCompose && request.method === "POST") {
    authorize(request, url, context, "write");
    const user = actingUser(request, context, username);
    const expandPath = (written: string) => context.expandPath(written, user);
    sendJson(response, 200, await receiveFiles(request, { user, path, expandPath }));
  } else {
    response.setHeader("allow", isCompose ? "POST" : "GET, HEAD, POST");
    throw new HttpError(405, "method not allowed");
  }
}

function requireToken(request: IncomingMessage, context: GuestContext): void {
  if (context.mayPass(request.headers[accessTokenHeader])) return;
  throw new HttpError(401, "unauthorized access, please provide a valid access token or method signing if supported");
}

/** A token in the header decides, right or wrong; without one the signature does. */
function authorize(request: IncomingMessage, url: URL, context: GuestContext, operation: FileOperation): void {
  const token = context.accessToken();
  if (token === undefined) return;
  if (request.headers[accessTokenHeader] !== undefined && request.headers[accessTokenHeader] !== "") {
    if (!context.mayPass(request.headers[accessTokenHeader])) throw new HttpError(401, "access token present in header but does not match");
    return;
  }
  const signature = url.searchParams.get(fileSignatureParameter);
  if (signature === null) throw new HttpError(401, "missing signature query parameter");
  const file = readSignedFile(url.searchParams, operation);
  if (file === undefined) throw new HttpError(400, "signature_expiration is not an integer");
  verifySignature(file, signature, token, Math.floor(Date.now() / 1000));
}

function actingUser(request: IncomingMessage, context: GuestContext, username: string | undefined): GuestUser {
  const named = username !== undefined && username !== "" ? username : basicUserName(request.headers.authorization ?? null);
  return context.users.acting(named);
}

function fail(request: IncomingMessage, response: ServerResponse, error: unknown, path: string, context: GuestContext): void {
  const isClientGone = response.destroyed || response.socket === null || response.socket.destroyed;
  const answer = answerForError(error, path);
  if (answer.status >= 500 && !isClientGone) context.log.warn({ err: error, method: request.method, path }, "file request failed");
  if (isClientGone) return;
  if (response.headersSent) {
    response.destroy(); // the only way left to say that what was promised does not come
    return;
  }
  const body = { code: answer.status, message: answer.message };
  if (request.complete) sendJson(response, answer.status, body);
  else answerEarly(request, response, answer.status, JSON.stringify(body));
}

/**
 * Answers while the client is still sending. The connection ends with it, but only when all was sent or too much was:
 * cut at once, it would be reset, and the client might never see the answer that is on its way.
 */
function answerEarly(request: IncomingMessage, response: ServerResponse, status: number, text: string): void {
  const length = Buffer.byteLength(text);
  response.writeHead(status, { "content-type": "application/json", "content-length": length, connection: "close" }).write(text);
  request.unpipe(); // first: to unpipe is to pause
  let bytes = 0;
  const timer = setTimeout(() => response.end(), discardMs);
  const end = () => {
    clearTimeout(timer);
    response.end();
  };
  request.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > discardedBytesMax) end();
  });
  request.once("end", end).once("close", end);
  request.on("error", () => undefined); // it is being discarded
  request.resume();
}
