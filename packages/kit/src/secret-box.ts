import { createCipheriv, createDecipheriv, hkdfSync, randomBytes } from "node:crypto";

const cipher = "aes-256-gcm";
const keyBytes = 32;
const nonceBytes = 12;
const tagBytes = 16;
/** First byte of what is sealed, in case another form is ever needed */
const formatVersion = 1;

/**
 * Seals what a database or a file keeps but must not show (keys, credentials): AES-256-GCM under a key that is derived from a
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
