import { STATUS_CODES } from "node:http";
import type { Duplex } from "node:stream";

import type { PlatformError } from "@roost/contract";

/** Answers an error on a bare connection, where there is no response object, and closes it. */
export function answerRaw(stream: Duplex, error: PlatformError, headers: Readonly<Record<string, string>> = {}): void {
  if (!stream.writable) {
    stream.destroy();
    return;
  }
  const body = JSON.stringify(error.toBody());
  const head = [
    `HTTP/1.1 ${error.status} ${STATUS_CODES[error.status] ?? "Error"}`,
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    "connection: close",
    "x-content-type-options: nosniff",
    ...(error.retryAfterSec === undefined ? [] : [`retry-after: ${error.retryAfterSec}`]),
    ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
  ];
  stream.end(`${head.join("\r\n")}\r\n\r\n${body}`, () => stream.destroy());
}
