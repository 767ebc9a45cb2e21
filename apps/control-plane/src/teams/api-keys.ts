import { createHash, timingSafeEqual } from "node:crypto";

import { apiKeyPattern, newApiKey, newSandboxId, PlatformError } from "@roost/contract";
import { minute, second, type Logger } from "@roost/kit";

import { findApiKey, insertApiKey, listApiKeys, revokeApiKey, touchApiKey } from "../db/api-keys.ts";
import type { Db } from "../db/database.ts";

/** How long a look-up is believed in `ms`: a key revoked by another process stops working this much later */
export const apiKeyCacheMs = 10 * second;
/** Look-ups remembered, good and bad; above, the oldest is forgotten */
const cacheEntriesMax = 10_000;
/** `last used` is written at most this often in `ms` per key: one request must not mean one write */
const touchIntervalMs = 1 * minute;
/** Hex digits of a key that lists show */
const prefixLength = 6;

export interface ApiKey {
  readonly id: string;
  readonly name: string;
}

/** A key as lists show it. */
export interface ApiKeySummary extends ApiKey {
  readonly prefix: string;
  readonly timeCreated: Date;
  readonly timeLastUsed: Date | null;
}

interface CacheEntry {
  readonly key: ApiKey | undefined;
  readonly timeExpires: number;
}

/**
 * API keys: made, checked, revoked. Only SHA-256 hashes are kept: a key has 160 random bits, so a slow hash would
 * protect nothing. `roost_<hex>` and `e2b_<hex>` with the same digits are the same key, so the digits are what is hashed.
 */
export class ApiKeys {
  readonly #db: Db;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #cache = new Map<string, CacheEntry>();
  readonly #touched = new Map<string, number>();

  constructor(db: Db, log: Logger, now: () => number = Date.now) {
    this.#db = db;
    this.#log = log;
    this.#now = now;
  }

  /** Makes a key; its plain text is returned here and never again. */
  async create(name: string): Promise<{ readonly id: string; readonly key: string }> {
    const key = newApiKey();
    const digits = digitsOf(key);
    const id = newSandboxId().replace(/^i/, "k");
    await insertApiKey(this.#db, {
      id,
      name,
      hash: hashOf(digits),
      prefix: digits.slice(0, prefixLength),
      time_created: new Date(this.#now()),
    });
    this.#log.info({ apiKeyId: id, name }, "API key created");
    return { id, key };
  }

  async list(): Promise<ApiKeySummary[]> {
    const rows = await listApiKeys(this.#db);
    return rows.map((row) => ({
      id: row.id,
      name: row.name,
      prefix: row.prefix,
      timeCreated: row.time_created,
      timeLastUsed: row.time_last_used,
    }));
  }

  /** Works at once in this process and within `apiKeyCacheMs` in others. */
  async revoke(id: string): Promise<boolean> {
    const revoked = await revokeApiKey(this.#db, id, new Date(this.#now()));
    for (const [hash, entry] of this.#cache) if (entry.key?.id === id) this.#cache.delete(hash);
    if (revoked) this.#log.info({ apiKeyId: id }, "API key revoked");
    return revoked;
  }

  /** The key that `text` is; throws `api_key_invalid` for anything else. */
  async check(text: string | undefined): Promise<ApiKey> {
    if (text === undefined) {
      throw new PlatformError("api_key_invalid", "send an API key, as header `X-API-Key: roost_…` or `Authorization: Bearer roost_…`");
    }
    const key = apiKeyPattern.test(text) ? await this.#lookUp(hashOf(digitsOf(text))) : undefined;
    if (key === undefined) throw new PlatformError("api_key_invalid", "this API key is not valid; it may have been revoked");
    this.#touch(key.id);
    return key;
  }

  async #lookUp(hash: Buffer): Promise<ApiKey | undefined> {
    const cacheKey = hash.toString("base64");
    const cached = this.#cache.get(cacheKey);
    if (cached !== undefined && cached.timeExpires > this.#now()) return cached.key;
    const row = await findApiKey(this.#db, hash);
    const key = row !== undefined && timingSafeEqual(row.hash, hash) ? { id: row.id, name: row.name } : undefined;
    this.#cache.delete(cacheKey);
    this.#cache.set(cacheKey, { key, timeExpires: this.#now() + apiKeyCacheMs });
    if (this.#cache.size > cacheEntriesMax) {
      const oldest = this.#cache.keys().next();
      if (oldest.done !== true) this.#cache.delete(oldest.value);
    }
    return key;
  }

  #touch(id: string): void {
    const now = this.#now();
    if (now - (this.#touched.get(id) ?? 0) < touchIntervalMs) return;
    this.#touched.set(id, now);
    touchApiKey(this.#db, id, new Date(now)).catch((error: unknown) =>
      this.#log.warn({ err: error, apiKeyId: id }, "could not note the use of an API key"),
    );
  }
}

function digitsOf(key: string): string {
  return key.slice(key.indexOf("_") + 1);
}

function hashOf(digits: string): Buffer {
  return createHash("sha256").update(digits, "latin1").digest();
}
