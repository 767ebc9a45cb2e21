import type { IncomingMessage } from "node:http";

import { fileBytesMax, PlatformError } from "@roost/contract";
import { formatBytes } from "@roost/kit";
import type { FastifyInstance, FastifyReply } from "fastify";

import { readFile, writeFile } from "../../guest/file-transfer.ts";
import { listFiles, makeFolder, moveFile, removeFile, statFile } from "../../guest/files.ts";
import type { Caller } from "../../accounts/caller.ts";
import { ownedBy } from "../../db/owned-id.ts";
import { cutWhenCallerMayNot, whileCallerMay } from "../caller-watch.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";
import { TransferMeter } from "../transfer-meter.ts";

export function addFileRoutes(app: FastifyInstance, services: Services): void {
  const { sandboxes, guests, metrics } = services;
  const guestOf = async (caller: Caller, id: string) => guests.of(await sandboxes.getUsable(ownedBy(caller.teamId, id)));

  addRoute(app, "readFile", 200, async ({ caller, params, query, signal, request, reply }) => {
    const answer = await readFile(await guestOf(caller, params.id), {
      ...query,
      user: query.user,
      signal,
      method: request.method === "HEAD" ? "HEAD" : "GET",
      range: request.headers.range,
      ifRange: typeof request.headers["if-range"] === "string" ? request.headers["if-range"] : undefined,
    });
    setFileHeaders(reply, answer);
    const meter = new TransferMeter((bytes) => metrics.countFileBytes("down", bytes));
    answer.on("error", (error) => meter.destroy(error)); // the caller's connection is then cut: it must not look complete
    const over = new AbortController();
    meter.on("close", () => {
      over.abort();
      answer.destroy();
    });
    cutWhenCallerMayNot(services, { request, caller }, over.signal, (error) => void meter.destroy(error));
    return reply.send(answer.pipe(meter));
  });

  addRoute(app, "listFiles", 200, async ({ caller, params, body, signal }) => ({
    entries: await listFiles(await guestOf(caller, params.id), body.path, body.depth, { user: body.user, signal }),
  }));
  addRoute(app, "statFile", 200, async ({ caller, params, body, signal }) => ({
    entry: await statFile(await guestOf(caller, params.id), body.path, { user: body.user, signal }),
  }));
  addRoute(app, "makeFolder", 201, async ({ caller, params, body, signal }) => ({
    entry: await makeFolder(await guestOf(caller, params.id), body.path, { user: body.user, signal }),
  }));
  addRoute(app, "moveFile", 200, async ({ caller, params, body, signal }) => ({
    entry: await moveFile(await guestOf(caller, params.id), body.source, body.destination, { user: body.user, signal }),
  }));
  addRoute(app, "removeFile", 204, async ({ caller, params, body, signal }) => {
    await removeFile(await guestOf(caller, params.id), body.path, { user: body.user, signal });
  });

  // Its own scope: here a body of any type is left on the wire, to be read as fast as the guest takes it.
  void app.register(async (uploads) => {
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser("*", (_request, _payload, done) => done(null));
    addRoute(uploads, "writeFile", 200, async ({ caller, params, query, signal, request }) => {
      const encoding = request.headers["content-encoding"];
      if (encoding !== undefined && encoding !== "identity") {
        throw new PlatformError("media_type_unsupported", "send the file's bytes as they are, without content-encoding");
      }
      const length = request.headers["content-length"];
      const contentLength = length === undefined ? undefined : Number(length);
      if (contentLength !== undefined && contentLength > fileBytesMax) {
        throw new PlatformError("request_too_large", `a file may have at most ${formatBytes(fileBytesMax)}`);
      }
      const guest = await guestOf(caller, params.id);
      const meter = new TransferMeter((bytes) => metrics.countFileBytes("up", bytes));
      request.raw.on("error", (error) => meter.destroy(error));
      try {
        const body = request.raw.pipe(meter);
        await whileCallerMay(services, { request, caller }, signal, async (allowed) =>
          writeFile(guest, { ...query, user: query.user, signal: allowed, contentLength, body }),
        );
      } finally {
        meter.destroy();
      }
      return { entry: await statFile(guest, query.path, { user: query.user, signal }) };
    });
  });
}

/**
 * What may be said about a file. Its bytes come from a guest, so a browser must neither guess a type nor run them:
 * they are always a download.
 */
function setFileHeaders(reply: FastifyReply, answer: IncomingMessage): void {
  void reply.code(answer.statusCode === 206 ? 206 : 200);
  void reply.headers({
    "content-type": "application/octet-stream",
    "content-disposition": "attachment",
    "content-security-policy": "default-src 'none'; sandbox",
    "accept-ranges": "bytes",
  });
  const { headers } = answer;
  if (/^\d{1,15}$/.test(headers["content-length"] ?? "")) void reply.header("content-length", headers["content-length"]);
  if (/^bytes (\d{1,15}-\d{1,15}|\*)\/(\d{1,15}|\*)$/.test(headers["content-range"] ?? ""))
    void reply.header("content-range", headers["content-range"]);
  if (/^(W\/)?"[\x21\x23-\x7e]{0,100}"$/.test(headers.etag ?? "")) void reply.header("etag", headers.etag);
  if (/^[A-Za-z0-9:, ]{1,40}$/.test(headers["last-modified"] ?? "")) void reply.header("last-modified", headers["last-modified"]);
}
