/**
 * URLs of files that carry a signature instead of a token: who has a sandbox's access token makes one for one file, one operation and one user,
 * and hands it out. The form is E2B's:
 *
 *     /files?path=PATH&username=USER&signature=v1_HASH&signature_expiration=UNIX_SEC
 *     HASH = base64, without padding, of SHA-256("PATH:OPERATION:USER:TOKEN"), or of "…:TOKEN:UNIX_SEC" for one that ends
 */

export type FileOperation = "read" | "write";

/** What a signature is about. */
export interface SignedFile {
  /** As in the query, before `~` or relative paths are expanded */
  readonly path: string;
  readonly operation: FileOperation;
  /** As in the query; "" when the default user is meant */
  readonly username: string;
  /** Unix `s` after which the signature no longer opens the file */
  readonly expiration: number | undefined;
}

export const fileSignatureParameter = "signature";

/** What a query asks to be opened for `operation`; undefined when its expiration is no whole number. */
export function readSignedFile(query: URLSearchParams, operation: FileOperation): SignedFile | undefined {
  const expiration = query.get("signature_expiration");
  if (expiration !== null && !/^-?\d{1,15}$/.test(expiration)) return undefined;
  return {
    path: query.get("path") ?? "",
    operation,
    username: query.get("username") ?? "",
    expiration: expiration === null ? undefined : Number(expiration),
  };
}

/** What is hashed: the token stands between the two. Apart, so that many tokens can be tried with the rest hashed once. */
export function signedText({ path, operation, username, expiration }: SignedFile): readonly [beforeToken: string, afterToken: string] {
  return [`${path}:${operation}:${username}:`, expiration === undefined ? "" : `:${expiration}`];
}

/** A signature from the SHA-256, in base64, of what is hashed. */
export function fileSignature(digest: string): string {
  return `v1_${digest.replace(/=+$/, "")}`;
}

/** The SHA-256, in base64, that a signature says; undefined when it cannot be one. */
export function digestOfFileSignature(signature: string): string | undefined {
  return /^v1_(?<digest>[A-Za-z0-9+/]{43})$/.exec(signature)?.groups?.["digest"];
}
