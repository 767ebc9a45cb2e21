import type { IncomingMessage } from "node:http";

import { HttpError } from "./http-error.ts";
import { readBody } from "./read-body.ts";

/** The JSON body of a request; an empty one is `{}`. Throws 413 above `bytesMax`, 400 for what is no JSON. */
export async function readJson(request: IncomingMessage, bytesMax: number): Promise<unknown> {
  if (Number(request.headers["content-length"] ?? 0) > bytesMax) throw tooLarge(bytesMax);
  const body = await readBody(request, bytesMax, {
    tooLarge: () => tooLarge(bytesMax),
    cut: () => new HttpError(400, "the request was cut"),
  });
  if (body.length === 0) return {};
  try {
    return JSON.parse(body.toString("utf8")) as unknown;
  } catch (error) {
    throw new HttpError(400, "the body is not valid JSON", error);
  }
}

function tooLarge(bytesMax: number): HttpError {
  return new HttpError(413, `the body is larger than ${bytesMax} bytes`);
}
