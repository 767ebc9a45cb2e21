import { constants, type BigIntStats } from "node:fs";
import { open, stat, statfs, type FileHandle } from "node:fs/promises";
import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from "node:http";
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { constants as zlibConstants, createGzip } from "node:zlib";

import { KiB, MiB } from "@roost/kit";

import { baseName } from "../filesystem/disk-path.ts";
import { errnoOf, isMissing } from "../filesystem/file-errors.ts";
import { chooseCoding } from "./accept-encoding.ts";
import { parseRange } from "./byte-range.ts";
import { contentDisposition } from "./content-disposition.ts";
import { contentTypeOf } from "./content-type.ts";
import { entityTag, isRangeCurrent, isUnchanged } from "./conditional.ts";
import { readFrom } from "./file-streams.ts";
import { HttpError } from "../http/http-error.ts";

/** Up to this size in `bytes` a file is read in one call: for it the machinery of streams costs more than all the rest. */
const wholeFileBytesMax = 256 * KiB;
/** Above this size in `bytes` files go out as they are: the link to the host is faster than an emulated CPU compresses. */
const gzipBytesMax = 16 * MiB;
/** Most that is read of a file whose size is not known before, in `bytes`. */
const unsizedBytesMax = 8 * MiB;
/** File systems of kernel text, where the size of a file says nothing about its content: proc, sysfs, cgroup2, debugfs, tracefs, securityfs. */
const unsizedTypes = new Set([0x9fa0, 0x6265_6572, 0x6367_7270, 0x6462_6720, 0x7472_6163, 0x7363_6673]);

/**
 * Answers GET and HEAD for a file, straight from the disk and no faster than the client reads. What the headers
 * promise is what the file was when it was opened: it is held open, growth is cut off, and if it shrinks meanwhile the
 * connection is cut, which is the only honest way left to say so.
 */
export async function sendFile(path: string, request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { file, stats } = await openRegular(path);
  await using _closing = file;
  const headers = { "content-type": contentTypeOf(path), "content-disposition": contentDisposition(baseName(path)) };
  if (stats.dev >> 8n === 0n && unsizedTypes.has((await statfs(path)).type)) await sendUnsized(file, headers, request, response);
  else await sendSized(file, stats, headers, request, response);
}

async function sendSized(
  file: FileHandle,
  stats: BigIntStats,
  fixed: OutgoingHttpHeaders,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const size = Number(stats.size);
  const coding = chooseCoding(request.headers["accept-encoding"]);
  const isPartial = request.headers.range !== undefined;
  if (coding === "none") throw new HttpError(406, "neither gzip nor identity is acceptable to the client");
  const isZipped = coding === "gzip" && !isPartial && size <= gzipBytesMax;
  const etag = entityTag(stats, isZipped);
  const modified = new Date(Number(stats.mtimeMs));
  const headers: OutgoingHttpHeaders = {
    ...fixed,
    etag,
    "last-modified": modified.toUTCString(),
    vary: "accept-encoding",
    "cache-control": "private, no-cache", // opened by a token that caches know nothing of, and changed at any moment
    "accept-ranges": "bytes",
  };

  if (isUnchanged(request.headers, [entityTag(stats, false), entityTag(stats, true)], modified)) {
    response.writeHead(304, headers).end();
    return;
  }
  const range = isPartial && isRangeCurrent(request.headers, etag, modified) ? parseRange(request.headers.range, size) : undefined;
  if (range === "unsatisfiable") {
    response.setHeader("content-range", `bytes */${size}`);
    throw new HttpError(416, `the range is outside of the file, which has ${size} bytes`);
  }
  if (isZipped) {
    response.writeHead(200, { ...headers, "content-encoding": "gzip" });
    if (request.method === "HEAD") response.end();
    else if (size === 0) await pipeline(Readable.from([]), gzip(), response);
    else await pipeline(readFrom(file, { start: 0, end: size - 1 }), gzip(), response);
    return;
  }
  const part = range ?? { start: 0, end: size - 1 };
  const length = part.end - part.start + 1;
  if (range !== undefined) headers["content-range"] = `bytes ${range.start}-${range.end}/${size}`;
  response.writeHead(range === undefined ? 200 : 206, { ...headers, "content-length": length });
  if (request.method === "HEAD" || length === 0) {
    response.end();
    return;
  }
  if (length <= wholeFileBytesMax) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(length), 0, length, part.start);
    if (bytesRead === length) response.end(buffer);
    else response.destroy(); // shorter than promised
    return;
  }
  let sent = 0;
  const source = readFrom(file, part, (bytes) => (sent += bytes));
  await pipeline(source, response, { end: false });
  if (sent === length) response.end();
  else response.destroy(); // shorter than promised
}

/** A file of kernel text is read whole before the answer starts: only then is its size known. */
async function sendUnsized(
  file: FileHandle,
  headers: OutgoingHttpHeaders,
  request: IncomingMessage,
  response: ServerResponse,
): Promise<void> {
  const chunks: Buffer[] = [];
  let length = 0;
  for (;;) {
    const { bytesRead, buffer } = await file.read(Buffer.allocUnsafe(64 * KiB)).catch(nothingIfEmpty);
    if (bytesRead === 0) break;
    chunks.push(buffer.subarray(0, bytesRead));
    length += bytesRead;
    if (length > unsizedBytesMax) throw new HttpError(413, `more than ${unsizedBytesMax} bytes in a file of unknown size`);
  }
  response.writeHead(200, { ...headers, "content-length": length, "cache-control": "no-store" });
  response.end(request.method === "HEAD" ? undefined : Buffer.concat(chunks));
}

/** /proc/kmsg and its kind, opened non-blocking, say EAGAIN where they would wait for news: that is their end. */
function nothingIfEmpty(error: unknown): { bytesRead: number; buffer: Buffer } {
  if (errnoOf(error) !== "EAGAIN") throw error;
  return { bytesRead: 0, buffer: Buffer.alloc(0) };
}

/** Asks first what it is, since to open some devices is to use them; non-blocking, since to open a pipe is to wait. */
async function openRegular(path: string): Promise<{ readonly file: FileHandle; readonly stats: BigIntStats }> {
  const requireRegular = (stats: { isFile(): boolean; isDirectory(): boolean }) => {
    if (stats.isDirectory()) throw new HttpError(400, `path '${path}' is a directory`);
    if (!stats.isFile()) throw new HttpError(400, `path '${path}' is not a regular file`);
  };
  requireRegular(await stat(path).catch(notFoundIfMissing));
  const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK).catch(notFoundIfMissing);
  try {
    const stats = await file.stat({ bigint: true });
    requireRegular(stats);
    return { file, stats };
  } catch (error) {
    await file.close();
    throw error;
  }

  function notFoundIfMissing(error: unknown): never {
    throw isMissing(error) ? new HttpError(404, `path '${path}' does not exist`, error) : error;
  }
}

function gzip() {
  return createGzip({ level: zlibConstants.Z_BEST_SPEED });
}
