import { createHmac, hkdfSync } from "node:crypto";

import { sameText } from "./same-text.ts";

const keyBytes = 32;
const formatName = "v1";
const grantPattern = /^v1\.([0-9a-z]{1,11})\.([A-Za-z0-9_-]{43})$/;

/** What a grant is bound to, besides its end. */
export interface GrantedPort {
  readonly sandboxId: string;
  readonly port: number;
  /** Of the sandbox; another one makes all grants before it worthless */
  readonly keyNumber: number;
}

export type GrantCheck = "good" | "expired" | "wrong";

/**
 * Signs what opens one port until an instant. Nothing of a grant is stored: it is an HMAC over all that it is for, under a key that is derived from the installation's secret
 * key, so every control plane on a database knows it and no database has it. A fork has an id of its own, so its parent's grants do not open it.
 */
export class PortKeys {
  readonly #key: Buffer;

  /** `secretKey`: 64 hex digits */
  constructor(secretKey: string) {
    const material = Buffer.from(secretKey, "hex");
    this.#key = Buffer.from(hkdfSync("sha256", material, Buffer.alloc(0), "roost signed URLs of ports", keyBytes));
  }

  sign(granted: GrantedPort, expires: Date): string {
    const end = Math.floor(expires.getTime() / 1_000).toString(36);
    return `${formatName}.${end}.${this.#mac(granted, end)}`;
  }

  /** The expiry is only believed, and told of, once the signature is right. */
  check(grant: string, granted: GrantedPort, now: Date): GrantCheck {
    const [, end = "", mac = ""] = grantPattern.exec(grant) ?? [];
    if (mac === "" || !sameText(mac, this.#mac(granted, end))) return "wrong";
    return endOf(grant).getTime() > now.getTime() ? "good" : "expired";
  }

  #mac({ sandboxId, port, keyNumber }: GrantedPort, end: string): string {
    return createHmac("sha256", this.#key).update([formatName, sandboxId, port, keyNumber, end].join("\n")).digest("base64url");
  }
}

/** When a grant ends, as it says itself. */
export function endOf(grant: string): Date {
  return new Date(Number.parseInt(grantPattern.exec(grant)?.[1] ?? "0", 36) * 1_000);
}
