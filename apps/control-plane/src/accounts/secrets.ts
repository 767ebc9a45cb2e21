import { createHash, randomBytes } from "node:crypto";

/** 256 bits, as hex: what is sent by mail, kept in cookies, exchanged. Only their SHA-256 is kept here: it needs to be no slower, nobody can guess them. */
export function newSecret(): string {
  return randomBytes(32).toString("hex");
}

export function hashOfSecret(secret: string): Buffer {
  return createHash("sha256").update(secret, "utf8").digest();
}
