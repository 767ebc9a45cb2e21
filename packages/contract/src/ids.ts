import { z } from "zod";

const alphabet = "0123456789abcdefghijklmnopqrstuvwxyz";
/** Random characters of an id: 20 of base 36 are 103 bits, so ids can be neither guessed nor met twice. */
const idLength = 20;

/** Sandbox ids are DNS labels without a dash: host names are `<port>-<sandboxId>.<domain>`. */
export const sandboxIdPattern = /^[a-z0-9]{1,40}$/;
export const sandboxIdSchema = z
  .string()
  .regex(sandboxIdPattern, "a sandbox id is 1 to 40 lower-case letters and digits")
  .describe("Sandbox id");

/** Hosts that a control plane was started with have names of their own, the others `h` and 20 random characters. */
export const hostIdSchema = z
  .string()
  .regex(/^[a-z0-9-]{1,40}$/, "a host id is 1 to 40 lower-case letters, digits and dashes")
  .describe("Host id");

/** First letters of ids: what each is of. */
export type IdPrefix = "i" | "k" | "g" | "u" | "h" | "c" | "v";

/** A sandbox's. */
export function newSandboxId(): string {
  return newId("i");
}

/** The prefix (sandbox `i`, API key `k`, team `g`, user `u`, host `h`, channel `c`, invitation `v`) and 20 random characters. */
export function newId(prefix: IdPrefix): string {
  let id: string = prefix;
  while (id.length < idLength + 1) {
    for (const byte of crypto.getRandomValues(new Uint8Array(idLength))) {
      // 252 = 7 * 36: bytes above would make the first letters of the alphabet likelier
      if (byte < 252 && id.length < idLength + 1) id += alphabet[byte % 36];
    }
  }
  return id;
}

/** 256 bits as hex: access tokens and the secret part of API keys. */
export function newToken(): string {
  return randomHex(32);
}

function randomHex(bytes: number): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(bytes)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export const apiKeyPattern = /^(roost|e2b)_[0-9a-f]{40,64}$/;
/** 160 bits: `roost_` and 40 hex digits. The same digits behind `e2b_` are the same key. */
export function newApiKey(): string {
  return `roost_${randomHex(20)}`;
}
