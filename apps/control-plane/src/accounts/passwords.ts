import { randomBytes, scrypt, timingSafeEqual, type ScryptOptions } from "node:crypto";
import { promisify } from "node:util";

import { PlatformError } from "@roost/contract";
import { MiB } from "@roost/kit";

const derive = promisify<string, Buffer, number, ScryptOptions, Buffer>(scrypt);

/** How much work a hash is: scrypt's N as a power of two, r, p. */
export interface PasswordCost {
  readonly logN: number;
  readonly r: number;
  readonly p: number;
}

/** OWASP's for 32 MiB each: about 0.3 s of one core */
export const passwordCostDefault: PasswordCost = { logN: 15, r: 8, p: 3 };
/** Hashes at once: each holds 32 MiB and a core */
const atOnceMax = 2;
/** Requests that wait for their turn; above, they are refused: a flood of logins must not starve what else runs here */
const waitingMax = 64;
const saltBytes = 16;
const hashBytes = 32;
/** Above this many bytes scrypt refuses to work: ours needs a quarter */
const memoryBytesMax = 128 * MiB;

/** Parts of a stored hash: `scrypt$<log N>$<r>$<p>$<salt>$<hash>`, base64url */
const storedPattern = /^scrypt\$(\d{1,2})\$(\d{1,2})\$(\d{1,2})\$([\w-]+)\$([\w-]+)$/;

/** Passwords as scrypt hashes, with bounded work at once. Hashes carry their cost, so that raising it spoils none. */
export class Passwords {
  readonly #cost: PasswordCost;
  /** Of nothing: compared with where there is no account, which takes as long */
  readonly #dummy: string;
  #busy = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(cost: PasswordCost = passwordCostDefault) {
    this.#cost = cost;
    this.#dummy = format(cost, randomBytes(saltBytes), randomBytes(hashBytes));
  }

  async hash(password: string): Promise<string> {
    const salt = randomBytes(saltBytes);
    return format(this.#cost, salt, await this.#derive(password, salt, this.#cost, hashBytes));
  }

  /** `stored` null: there is no such account, or it has no password; false, after as much work. */
  async verify(password: string, stored: string | null): Promise<boolean> {
    const [, logN, r, p, salt, hash] = storedPattern.exec(stored ?? this.#dummy) ?? [];
    if (salt === undefined || hash === undefined) throw new Error("the stored hash of a password has no known form");
    const expected = Buffer.from(hash, "base64url");
    const cost = { logN: Number(logN), r: Number(r), p: Number(p) };
    const found = await this.#derive(password, Buffer.from(salt, "base64url"), cost, expected.length);
    return timingSafeEqual(found, expected) && stored !== null;
  }

  async #derive(password: string, salt: Buffer, { logN, r, p }: PasswordCost, bytes: number): Promise<Buffer> {
    await this.#takeTurn();
    try {
      // The same characters in another Unicode form are the same password
      return await derive(password.normalize("NFKC"), salt, bytes, { N: 2 ** logN, r, p, maxmem: memoryBytesMax });
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#busy -= 1;
      else next(); // the turn is handed over
    }
  }

  async #takeTurn(): Promise<void> {
    if (this.#busy < atOnceMax) {
      this.#busy += 1;
      return;
    }
    if (this.#waiting.length >= waitingMax) {
      throw new PlatformError("rate_limited", "too many people are signing in at this moment; try again in a few seconds", {
        retryAfterSec: 5,
      });
    }
    await new Promise<void>((resolve) => this.#waiting.push(resolve));
  }
}

function format({ logN, r, p }: PasswordCost, salt: Buffer, hash: Buffer): string {
  return `scrypt$${logN}$${r}$${p}$${salt.toString("base64url")}$${hash.toString("base64url")}`;
}
