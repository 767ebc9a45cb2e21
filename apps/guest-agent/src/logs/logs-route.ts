import type { ServerResponse } from "node:http";

import { guestLogPageBytesMax } from "@roost/contract";

import { HttpError, sendJson } from "../http/http-error.ts";
import type { ProcessLog } from "./process-log.ts";

/** `GET /logs?after=N&epoch=E&bytes_max=B`: for the host, which splits it into lines and keeps it. */
export function handleLogs(response: ServerResponse, url: URL, log: ProcessLog): void {
  const after = wholeNumber(url, "after", 0);
  const bytesMax = wholeNumber(url, "bytes_max", guestLogPageBytesMax);
  sendJson(response, 200, log.page({ after, epoch: url.searchParams.get("epoch") ?? "", bytesMax }));
}

function wholeNumber(url: URL, name: string, otherwise: number): number {
  const text = url.searchParams.get(name);
  if (text === null) return otherwise;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new HttpError(400, `${name} must be a whole number`);
  return value;
}
