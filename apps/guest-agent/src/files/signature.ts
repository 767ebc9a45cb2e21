import { createHash, timingSafeEqual } from "node:crypto";

import { HttpError } from "../http/http-error.ts";

export type FileOperation = "read" | "write";

export interface SignedRequest {
  /** as in the query, before `~` or relative paths are expanded */
  readonly path: string;
  readonly operation: FileOperation;
  /** as in the query; "" when the default user is meant */
  readonly username: string;
  /** unix `s` after which the signature no longer opens the file */
  readonly expiration: number | undefined;
}

/** Signature of a file URL: whoever knows the sandbox's token can make one, and hand out one file without the token. */
export function signFile(request: SignedRequest, token: string): string {
  const parts = [request.path, request.operation, request.username, token];
  if (request.expiration !== undefined) parts.push(String(request.expiration));
  return `v1_${createHash("sha256").update(parts.join(":")).digest("base64").replace(/=+$/, "")}`;
}

/** Passes, or throws 401 with the words the SDKs compare. Only a right signature is told that it came too late. */
export function verifySignature(request: SignedRequest, signature: string, token: string, nowSec: number): void {
  const expected = Buffer.from(signFile(request, token));
  const given = Buffer.from(signature);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new HttpError(401, "invalid signature");
  if (request.expiration !== undefined && request.expiration < nowSec) throw new HttpError(401, "signature is already expired");
}
