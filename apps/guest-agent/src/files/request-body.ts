import type { IncomingMessage } from "node:http";
import { pipeline, Transform } from "node:stream";
import { createGunzip } from "node:zlib";

import { formatBytes, MiB } from "@roost/kit";

import { HttpError } from "../http/http-error.ts";

/**
 * The content of a request's body: unzipped where it is zipped, then limited, so that a bomb meets the limit too.
 *
 * The request itself is only piped from: who gives up reading destroys what it reads, and with the request the
 * connection would go that has to carry the answer. To be destroyed when it is not read to its end.
 */
export function openBody(request: IncomingMessage, bytesMax: number): Transform {
  const coding = request.headers["content-encoding"]?.trim().toLowerCase() ?? "identity";
  const limit = new ByteLimit(bytesMax);
  if (coding === "identity" || coding === "") return feed(request, limit);
  if (coding !== "gzip" && coding !== "x-gzip") {
    throw new HttpError(400, "unsupported content encoding: only gzip and identity are accepted");
  }
  pipeline(feed(request, createGunzip()), limit, () => undefined); // a failure destroys `limit` with it, so its reader gets it
  return limit;
}

function feed(request: IncomingMessage, first: Transform): Transform {
  request.pipe(first);
  first.on("error", () => undefined); // its reader gets it, now or when it comes to read
  request.once("error", (error) => first.destroy(error));
  request.once("close", () => {
    if (!request.complete) first.destroy(new HttpError(400, "the upload was cut off"));
  });
  first.once("close", () => request.unpipe(first));
  return first;
}

/** Lets at most so many bytes pass, then fails with 413. */
export class ByteLimit extends Transform {
  readonly #bytesMax: number;
  #bytes = 0;

  constructor(bytesMax: number) {
    super();
    this.#bytesMax = bytesMax;
  }

  override _transform(chunk: Buffer, _encoding: string, done: (error: Error | null, chunk?: Buffer) => void): void {
    this.#bytes += chunk.length;
    if (this.#bytes > this.#bytesMax) done(new HttpError(413, `more than ${formatBytes(this.#bytesMax)} in one upload`));
    else done(null, chunk);
  }
}

/** What a failure of the stream means to its sender: zlib and the multipart parser complain about the body they got. */
export function toBodyError(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code = "code" in error && typeof error.code === "string" ? error.code : "";
  if (code.startsWith("Z_")) return new HttpError(400, "the body is not valid gzip", error);
  return error;
}

/** Bodies up to this size in `bytes` are taken whole: for them the machinery of streams costs more than all the rest. */
export const wholeBodyBytesMax = 1 * MiB;

/** Whether a body is known to be small and needs no unzipping. */
export function isSmallAndPlain(request: IncomingMessage): boolean {
  const length = request.headers["content-length"];
  const coding = request.headers["content-encoding"];
  return length !== undefined && Number(length) <= wholeBodyBytesMax && (coding === undefined || coding === "identity");
}

/** Reads a body whole, as it came. Fails with 413 above the limit, and with 400 when it breaks off. */
export async function readWhole(request: IncomingMessage, bytesMax: number): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  return new Promise((resolve, reject) => {
    const settle = (finish: () => void) => {
      request.off("data", onData).off("end", onEnd).off("error", onError).off("close", onClose);
      finish();
    };
    const onData = (chunk: Buffer) => {
      bytes += chunk.length;
      chunks.push(chunk);
      if (bytes <= bytesMax) return;
      request.pause();
      settle(() => reject(new HttpError(413, `the body is larger than ${formatBytes(bytesMax)}`)));
    };
    const onEnd = () => settle(() => resolve(chunks.length === 1 && chunks[0] !== undefined ? chunks[0] : Buffer.concat(chunks)));
    const onError = (error: Error) => settle(() => reject(error));
    const onClose = () => settle(() => reject(new HttpError(400, "the upload was cut off")));
    request.on("data", onData).on("end", onEnd).on("error", onError).on("close", onClose);
  });
}
