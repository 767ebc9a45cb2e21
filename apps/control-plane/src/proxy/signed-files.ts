import { createHash, timingSafeEqual } from "node:crypto";
import type { IncomingHttpHeaders } from "node:http";

import { digestOfFileSignature, fileSignatureParameter, readSignedFile, signedText, type FileOperation } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { TokenHolder } from "../db/token-holders.ts";

/** Sandboxes that one signature is compared with: 4,000 hashes take some 15 ms, in which nobody else is served */
export const tokenHoldersMax = 4_096;

/** What was signed, less the token. */
interface Signed {
  readonly beforeToken: string;
  readonly afterToken: string;
  readonly digest: Buffer;
}

export interface SignedFilesDependencies {
  /** At most `limit` sandboxes whose tokens may have signed, newest first */
  readonly list: (limit: number) => Promise<readonly TokenHolder[]>;
  readonly log: Logger;
}

/**
 * URLs of files that carry a signature and no sandbox: the one whose token made the signature is meant.
 *
 * SDKs that are given one address for all sandboxes make such URLs. The tokens of all sandboxes are kept in memory, and each is tried: all of
 * them, whether one fitted or not, so that the time tells nothing. Here it is only found out who is asked. The sandbox's guest agent
 * checks the signature again, and whether it has come too late.
 */
export class SignedFiles {
  readonly #deps: SignedFilesDependencies;
  #known: readonly TokenHolder[] = [];
  #reading: Promise<readonly TokenHolder[]> | undefined;
  #next: Promise<readonly TokenHolder[]> | undefined;

  constructor(deps: SignedFilesDependencies) {
    this.#deps = deps;
  }

  /** The sandbox that signed this request; undefined when none did. `target` is the request's: `/files?…`. */
  async signerOf(method: string, target: string, headers: IncomingHttpHeaders): Promise<string | undefined> {
    const signed = readSigned(method, target, headers);
    if (signed === undefined) return undefined;
    const known = findSigner(signed, this.#known);
    // "None" is only said of what was read after the request came; a sandbox may be a moment old.
    return known ?? findSigner(signed, await this.#read());
  }

  /** Reads anew. Of all that ask while one is reading, the next reading is shared: it begins after they came. */
  async #read(): Promise<readonly TokenHolder[]> {
    if (this.#reading === undefined) return this.#start();
    this.#next ??= this.#reading
      .catch(() => undefined) // told to those who asked for it
      .then(() => {
        this.#next = undefined;
        return this.#start();
      });
    return this.#next;
  }

  async #start(): Promise<readonly TokenHolder[]> {
    const reading = this.#deps.list(tokenHoldersMax);
    this.#reading = reading;
    try {
      this.#known = await reading;
    } finally {
      if (this.#reading === reading) this.#reading = undefined;
    }
    if (this.#known.length === tokenHoldersMax) {
      this.#deps.log.warn(
        { count: tokenHoldersMax },
        "signed URLs of the oldest sandboxes do not work: there are too many to compare with",
      );
    }
    return this.#known;
  }
}

/** Undefined when nothing can have signed it. */
function readSigned(method: string, target: string, headers: IncomingHttpHeaders): Signed | undefined {
  const operation = operationOf(method, headers);
  const query = new URLSearchParams(target.slice(target.indexOf("?") + 1));
  const digest = digestOfFileSignature(query.get(fileSignatureParameter) ?? "");
  const file = operation === undefined ? undefined : readSignedFile(query, operation);
  if (file === undefined || digest === undefined) return undefined;
  const [beforeToken, afterToken] = signedText(file);
  return { beforeToken, afterToken, digest: Buffer.from(digest, "base64") };
}

/** A browser asks before it sends: then it counts what it wants to send. */
function operationOf(method: string, headers: IncomingHttpHeaders): FileOperation | undefined {
  const meant = method === "OPTIONS" ? (headers["access-control-request-method"] ?? "GET") : method;
  if (meant === "GET" || meant === "HEAD") return "read";
  return meant === "POST" ? "write" : undefined;
}

/** Tries all of them. A path of any length is hashed once. */
function findSigner(signed: Signed, holders: readonly TokenHolder[]): string | undefined {
  const hash = createHash("sha256").update(signed.beforeToken);
  let found: string | undefined;
  for (const { id, accessToken } of holders) {
    const digest = hash
      .copy()
      .update(accessToken + signed.afterToken)
      .digest();
    if (timingSafeEqual(digest, signed.digest)) found = id;
  }
  return found;
}
