import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";
import { mkdir, readFile } from "node:fs/promises";
import { join } from "node:path";

import { OptionError, writeFileDurably } from "@roost/kit";

const cipher = "aes-256-gcm";
const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;
const secretKeyPattern = /^[0-9a-f]{64}$/;
/** First byte of what is sealed, in case another form is ever needed */
const formatVersion = 1;

/**
 * Seals what the database keeps but must not know (keys, credentials of channels): AES-256-GCM under a key that is derived from the installation's
 * secret key for one purpose, so that what was sealed for one cannot be passed off as another's.
 */
export class SecretBox {
  readonly #key: Buffer;

  /** `secretKey`: 64 hex digits; `purpose`: of this box, a constant of the program. */
  constructor(secretKey: string, purpose: string) {
    this.#key = Buffer.from(hkdfSync("sha256", Buffer.from(secretKey, "hex"), Buffer.alloc(0), `roost ${purpose}`, keyBytes));
  }

  /** `context`: what the secret is of (a row's id); the same is needed to open it. */
  seal(secret: string, context: string): Buffer {
    const nonce = randomBytes(nonceBytes);
    const sealing = createCipheriv(cipher, this.#key, nonce, { authTagLength: tagBytes });
    sealing.setAAD(Buffer.from(context));
    const sealed = Buffer.concat([sealing.update(secret, "utf8"), sealing.final()]);
    return Buffer.concat([Buffer.of(formatVersion), nonce, sealing.getAuthTag(), sealed]);
  }

  /** Throws when it was sealed with another key, for another purpose or context, or was changed. */
  open(sealed: Uint8Array, context: string): string {
    const bytes = Buffer.from(sealed.buffer, sealed.byteOffset, sealed.byteLength);
    const start = 1 + nonceBytes + tagBytes;
    if (bytes.length < start || bytes[0] !== formatVersion) throw new Error("this is no sealed secret");
    const opening = createDecipheriv(cipher, this.#key, bytes.subarray(1, 1 + nonceBytes), { authTagLength: tagBytes });
    opening.setAAD(Buffer.from(context));
    opening.setAuthTag(bytes.subarray(1 + nonceBytes, start));
    return Buffer.concat([opening.update(bytes.subarray(start)), opening.final()]).toString("utf8");
  }
}

/**
 * The installation's secret key. Where the database is in the state folder the key is there, too, made when it is first needed; a database server is shared
 * by several control planes and backed up by others, so then the operator gives the key.
 */
export async function readSecretKey(options: {
  readonly secretKey?: string | undefined;
  readonly databaseUrl?: string | undefined;
  readonly dir: string;
}): Promise<string> {
  if (options.secretKey !== undefined) return options.secretKey;
  if (options.databaseUrl !== undefined) {
    throw new OptionError(
      "ROOST_SECRET_KEY is required with ROOST_DATABASE_URL: 64 hex digits, the same for every control plane on that database, for example from `openssl rand -hex 32`",
    );
  }
  const path = join(options.dir, "secret-key");
  const present = await readFile(path, "utf8").catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return undefined;
    throw error;
  });
  if (present !== undefined) {
    if (!secretKeyPattern.test(present.trim()))
      throw new OptionError(`${path} does not have the secret key (64 hex digits) in it; put back the one that was there`);
    return present.trim();
  }
  const made = randomBytes(keyBytes).toString("hex");
  await mkdir(options.dir, { recursive: true });
  await writeFileDurably(path, `${made}\n`, { mode: 0o600 });
  return made;
}
