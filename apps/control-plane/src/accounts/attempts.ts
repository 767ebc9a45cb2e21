import { isIPv6 } from "node:net";

import { PlatformError } from "@roost/contract";
import ipaddr from "ipaddr.js";
import { CompiledQuery } from "kysely";
import { RateLimiterPostgres, RateLimiterRes } from "rate-limiter-flexible";

import type { Db } from "../db/database.ts";
import { hashOfSecret } from "./secrets.ts";

/** What may be tried how often, counted across replicas. */
const limits = {
  /** Passwords for one account from one address; above, each further round of as many is farther away */
  loginHere: { points: 5, durationSec: 15 * 60 },
  /** Passwords for one account from anywhere. Above, nobody gets in with the password for a while, the owner neither: a reset by mail lifts it */
  loginAnywhere: { points: 20, durationSec: 60 * 60 },
  /** Passwords from one address for whichever accounts */
  loginAddress: { points: 60, durationSec: 15 * 60 },
  signUpAddress: { points: 20, durationSec: 60 * 60 },
  /**
   * Mails to one address that anybody can cause, each kind for itself: else whoever signs up with somebody's address again and again would keep
   * them from resetting their password. Above, none are sent, and nobody is told
   */
  signUpMailTo: { points: 4, durationSec: 60 * 60 },
  resetMailTo: { points: 4, durationSec: 60 * 60 },
  inviteMailTo: { points: 4, durationSec: 60 * 60 },
  resetAddress: { points: 20, durationSec: 60 * 60 },
  /** Secrets of mails and codes: they cannot be guessed, only looked up in vain */
  tokenAddress: { points: 60, durationSec: 15 * 60 },
  oauthAddress: { points: 60, durationSec: 15 * 60 },
  inviteTeam: { points: 100, durationSec: 60 * 60 },
} as const satisfies Record<string, { readonly points: number; readonly durationSec: number }>;
export type LimitName = keyof typeof limits;

/** First lockout of an account in `s`; each further one within a day is twice as long, up to the longest */
const lockoutSecMin = 60;
const lockoutSecMax = 60 * 60;
const lockoutsRememberedSec = 24 * 60 * 60;

/**
 * How often something was tried, by whom. Each try is counted before it is made, in one statement, so that tries at the same moment are no way
 * around a limit. Keys are hashed: they are addresses of people.
 */
export class Attempts {
  readonly #limiters: Readonly<Record<LimitName, RateLimiterPostgres>>;
  readonly #lockouts: RateLimiterPostgres;

  constructor(db: Db) {
    const client = clientOf(db);
    const limiter = (keyPrefix: string, points: number, duration: number) =>
      new RateLimiterPostgres({
        storeClient: client,
        storeType: "client",
        tableName: "rate_limit",
        tableCreated: true,
        clearExpiredByTimeout: false, // the upkeep of accounts does
        keyPrefix,
        points,
        duration,
      });
    this.#limiters = Object.fromEntries(
      Object.entries(limits).map(([name, { points, durationSec }]) => [name, limiter(name, points, durationSec)]),
    ) as Record<LimitName, RateLimiterPostgres>;
    this.#lockouts = limiter("lockout", Number.MAX_SAFE_INTEGER, lockoutsRememberedSec);
  }

  /** Counts one try; throws `rate_limited` when it is one too many. */
  async count(name: LimitName, key: string): Promise<void> {
    const refusal = await this.#consume(name, key);
    if (refusal !== undefined) throw tooMany(refusal.msBeforeNext);
  }

  /** Counts one try; false when it is one too many. */
  async allows(name: LimitName, key: string): Promise<boolean> {
    return (await this.#consume(name, key)) === undefined;
  }

  /** Counts a try to sign in. Whoever goes on failing is locked out for longer each time. */
  async countLogin(email: string, address: string): Promise<void> {
    await this.count("loginAddress", address);
    await this.#countLocking("loginHere", `${email} ${address}`);
    await this.#countLocking("loginAnywhere", email);
  }

  /** It was the right password. */
  async forgetLogin(email: string, address: string): Promise<void> {
    await this.#forget("loginHere", `${email} ${address}`);
    await this.#forget("loginAnywhere", email);
  }

  /** Whoever reads the account's mail chose a new password: strangers' tries count no more. */
  async forgetAccount(email: string): Promise<void> {
    await this.#forget("loginAnywhere", email);
  }

  async #countLocking(name: LimitName, key: string): Promise<void> {
    const refusal = await this.#consume(name, key);
    if (refusal === undefined) return;
    // The first one too many starts the lockout; those after it find it, and make it no longer
    if (refusal.consumedPoints !== limits[name].points + 1) throw tooMany(refusal.msBeforeNext);
    const { consumedPoints } = await this.#lockouts.penalty(`${name}:${keyOf(key)}`);
    const lockoutSec = Math.min(lockoutSecMin * 2 ** (consumedPoints - 1), lockoutSecMax);
    await this.#limiters[name].block(keyOf(key), lockoutSec);
    throw tooMany(lockoutSec * 1000);
  }

  async #forget(name: LimitName, key: string): Promise<void> {
    await this.#limiters[name].delete(keyOf(key));
    await this.#lockouts.delete(`${name}:${keyOf(key)}`);
  }

  /** Undefined when it is none too many. */
  async #consume(name: LimitName, key: string): Promise<RateLimiterRes | undefined> {
    try {
      await this.#limiters[name].consume(keyOf(key));
      return undefined;
    } catch (error) {
      if (error instanceof RateLimiterRes) return error;
      throw error;
    }
  }
}

function tooMany(waitMs: number): PlatformError {
  const retryAfterSec = Math.max(1, Math.ceil(waitMs / 1000));
  return new PlatformError("rate_limited", `this was tried too often; try again in ${retryAfterSec} s`, { retryAfterSec });
}

function keyOf(key: string): string {
  return hashOfSecret(key).toString("base64url");
}

/** Who is counted as one: an IPv4 address, or an IPv6 network of the size that one customer has. */
export function addressKey(address: string | null): string {
  if (address === null) return "unknown";
  const plain = address.replace(/^::ffff:(?=\d+\.)/i, "").replace(/%.*$/, "");
  if (!isIPv6(plain)) return plain;
  const network = ipaddr.IPv6.parse(plain).parts.slice(0, 4);
  return `${network.map((part) => part.toString(16)).join(":")}::/64`;
}

/** The library wants a client of `pg`; ours is whichever database there is. */
function clientOf(db: Db) {
  return {
    query: async ({ text, values }: { readonly text: string; readonly values?: readonly unknown[] }) => {
      const { rows, numAffectedRows } = await db.executeQuery(CompiledQuery.raw(text, [...(values ?? [])]));
      return { rows, rowCount: Number(numAffectedRows ?? rows.length) };
    },
  };
}
