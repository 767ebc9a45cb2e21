import type { IncomingMessage } from "node:http";

import { fileBytesMax, PlatformError } from "@roost/contract";

import type { BuildFiles } from "../templates/build-files.ts";
import { TransferMeter } from "./transfer-meter.ts";

/** Requests whose body is an archive for a build. */

export interface ArchiveUpload {
  readonly templateId: string;
  readonly hash: string;
  /** In `bytes`; undefined: until the body ends */
  readonly length: number | undefined;
  readonly request: IncomingMessage;
  readonly signal: AbortSignal;
}

/** Takes the body of a request as an archive of a build. */
export async function putArchive(files: BuildFiles, upload: ArchiveUpload, count: (bytes: number) => void): Promise<void> {
  const { templateId, hash, length, request, signal } = upload;
  const meter = new TransferMeter(count);
  request.on("error", (error) => meter.destroy(error));
  try {
    await files.put(templateId, hash, request.pipe(meter), length, signal);
  } finally {
    meter.destroy();
  }
}

/** The exact length that an upload says it has. */
export function uploadLength(request: IncomingMessage): number {
  requireIdentity(request);
  const { "content-length": length } = request.headers;
  if (length === undefined || !/^\d{1,15}$/.test(length) || Number(length) > fileBytesMax) {
    throw new PlatformError("request_invalid", "an upload needs a content-length");
  }
  return Number(length);
}

/** The same of a client that may send its body in chunks and leave the length unsaid: then undefined. */
export function uploadLengthIfSaid(request: IncomingMessage): number | undefined {
  requireIdentity(request);
  return request.headers["transfer-encoding"] === undefined ? uploadLength(request) : undefined;
}

function requireIdentity(request: IncomingMessage): void {
  const { "content-encoding": encoding } = request.headers;
  if (encoding !== undefined && encoding !== "identity") {
    throw new PlatformError("media_type_unsupported", "send the archive's bytes as they are, without content-encoding");
  }
}
