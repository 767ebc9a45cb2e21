import { createHash, timingSafeEqual } from "node:crypto";

import { fileSignature, signedText, type SignedFile } from "@roost/contract";

import { HttpError } from "../http/http-error.ts";

/** Signature of a file URL: whoever knows the sandbox's token can make one, and hand out one file without the token. */
export function signFile(file: SignedFile, token: string): string {
  return fileSignature(createHash("sha256").update(signedText(file).join(token)).digest("base64"));
}

/** Passes, or throws 401 with the words the SDKs compare. Only a right signature is told that it came too late. */
export function verifySignature(file: SignedFile, signature: string, token: string, nowSec: number): void {
  const expected = Buffer.from(signFile(file, token));
  const given = Buffer.from(signature);
  if (given.length !== expected.length || !timingSafeEqual(given, expected)) throw new HttpError(401, "invalid signature");
  if (file.expiration !== undefined && file.expiration < nowSec) throw new HttpError(401, "signature is already expired");
}
