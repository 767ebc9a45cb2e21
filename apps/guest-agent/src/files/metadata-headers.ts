import type { IncomingMessage } from "node:http";

import { metadataBytesMax, metadataKeyBytesMax, type Metadata } from "../filesystem/metadata.ts";
import { HttpError } from "../http/http-error.ts";

const headerPrefix = "x-metadata-";

/** Metadata a request gives to the files it uploads: `X-Metadata-<key>: value`, keys in lower case, the first of equal ones. */
export function metadataOf(request: Pick<IncomingMessage, "rawHeaders">): Metadata {
  const metadata = new Map<string, string>();
  let bytes = 0;
  for (let index = 0; index + 1 < request.rawHeaders.length; index += 2) {
    const header = request.rawHeaders[index]?.toLowerCase() ?? "";
    const key = header.slice(headerPrefix.length);
    if (!header.startsWith(headerPrefix) || key === "" || metadata.has(key)) continue;
    const value = decodeHeader(request.rawHeaders[index + 1] ?? "");
    if (Buffer.byteLength(key) > metadataKeyBytesMax) throw new HttpError(400, `a metadata key is at most ${metadataKeyBytesMax} bytes`);
    bytes += Buffer.byteLength(key) + Buffer.byteLength(value);
    metadata.set(key, value);
  }
  if (bytes > metadataBytesMax) throw new HttpError(400, `metadata is ${bytes} bytes; at most ${metadataBytesMax} are kept`);
  return Object.fromEntries(metadata);
}

/** Node reads header bytes as latin1; clients send UTF-8. What is not valid UTF-8 was meant as latin1. */
function decodeHeader(value: string): string {
  const bytes = Buffer.from(value, "latin1");
  const text = bytes.toString("utf8");
  return Buffer.from(text).equals(bytes) ? text : value;
}
