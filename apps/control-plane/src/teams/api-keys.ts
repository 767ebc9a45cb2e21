import { createHash, timingSafeEqual } from "node:crypto";

import {
  allScopes,
  apiKeyPattern,
  apiKeysPerTeamMax,
  defaultTeamId,
  newApiKey,
  newId,
  PlatformError,
  platformScopes,
  scopesOfRole,
  type Scope,
} from "@roost/contract";
import { hour, minute, type Logger } from "@roost/kit";

import { requireScope, scopesOfUser, systemCaller, type Actor, type Caller } from "../accounts/caller.ts";
import type { Audit, PendingEntry } from "../audit/audit.ts";
import {
  findApiKey,
  holdMakingKey,
  holdMakingUser,
  holdTeam,
  insertApiKey,
  listApiKeys,
  listApiKeysMadeBy,
  revokeApiKey,
  revokeApiKeys,
  touchApiKey,
  type ApiKeyRow,
} from "../db/api-keys.ts";
import type { Db } from "../db/database.ts";
import { emit } from "../events/outbox.ts";
import { ApiKeyCache } from "./api-key-cache.ts";

/** `last used` is written at most this often in `ms` per key: one request must not mean one write */
const touchIntervalMs = 1 * minute;
/** That a key is refused is noted in the audit log at most this often in `ms` per key */
const refusalIntervalMs = 1 * hour;
/** Keys whose last note is remembered; above, all are forgotten, and some notes come too early */
const notesMax = 10_000;
/** Hex digits of a key that lists show */
const prefixLength = 6;

/** A key that works, or worked once. */
export interface ApiKey {
  readonly id: string;
  readonly name: string;
  readonly teamId: string;
  readonly scopes: ReadonlySet<Scope>;
  /** Of the platform */
  readonly isAdmin: boolean;
  readonly timeExpires: Date | null;
  readonly timeRevoked: Date | null;
}

export interface NewApiKey {
  readonly name: string;
  /** null: all that a member of the team may, also what they may in later versions */
  readonly scopes: readonly Scope[] | null;
  /** null: until it is revoked */
  readonly expiresInSec: number | null;
}

/** A key at its birth: its plain text is here and never again. */
export interface MadeApiKey {
  readonly row: ApiKeyRow;
  readonly key: string;
}

export interface ApiKeysDependencies {
  readonly db: Db;
  readonly audit: Audit;
  readonly log: Logger;
  /** In `ms` since 1970 */
  readonly now?: () => number;
}

/**
 * API keys: made, checked, revoked. Only SHA-256 hashes are kept: a key has 160 random bits, so a slow hash would
 * protect nothing. `roost_<hex>` and `e2b_<hex>` with the same digits are the same key, so the digits are what is hashed.
 */
export class ApiKeys {
  readonly #db: Db;
  readonly #audit: Audit;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #cache: ApiKeyCache;
  readonly #touched = new Map<string, number>();
  readonly #refused = new Map<string, number>();

  constructor({ db, audit, log, now = Date.now }: ApiKeysDependencies) {
    this.#db = db;
    this.#audit = audit;
    this.#log = log;
    this.#now = now;
    this.#cache = new ApiKeyCache((hash) => this.#lookUp(hash), now);
  }

  /** Makes a key for the caller's team. It can do nothing that its maker cannot, and lives no longer than a key that makes it. */
  async create(caller: Caller, wanted: NewApiKey): Promise<MadeApiKey> {
    requireScopes(caller, wanted);
    const isAdmin = wanted.scopes?.some((scope) => platformScopes.has(scope)) ?? false;
    return this.#insert(caller, wanted, isAdmin);
  }

  /** A key that can do everything, for the platform's first team: who starts the platform has it. */
  async createForPlatform(name: string): Promise<MadeApiKey> {
    return this.#insert(systemCaller(defaultTeamId), { name, scopes: null, expiresInSec: null }, true);
  }

  async list(teamId: string): Promise<ApiKeyRow[]> {
    return listApiKeys(this.#db, teamId);
  }

  /** Works at once in this process and within `apiKeyCacheMs` in others. Throws `api_key_not_found`. */
  async revoke(caller: Caller, id: string): Promise<void> {
    await this.#db.transaction().execute(async (transaction) => {
      if (!(await revokeApiKey(transaction, caller.teamId, id, new Date(this.#now())))) throw apiKeyNotFound(id);
      await tellOfKey(transaction, "key.revoked", caller.teamId, caller.actor, id);
      await this.#audit.record(transaction, caller, { action: "key.revoke", resource: { kind: "api_key", id } });
    });
    this.#cache.clear();
    this.#log.info({ apiKeyId: id, teamId: caller.teamId }, "API key revoked");
  }

  /**
   * Revokes what a user made, directly or by keys that they made: in one team (they left it), or in all (undefined). With `lost` only what has one of
   * these scopes, which they have no more. To be called in the transaction that takes it from them, after that; and `forget` once it is over.
   * Answers what is to be recorded of it, each in its team's log, together with what the caller records.
   */
  async revokeMadeBy(
    transaction: Db,
    userId: string,
    teamId: string | undefined,
    lost?: ReadonlySet<Scope>,
  ): Promise<readonly PendingEntry[]> {
    const has = (row: ApiKeyRow) => lost === undefined || [...scopesOfKey(row)].some((scope) => lost.has(scope));
    const all: PendingEntry[] = [];
    for (;;) {
      const rows = (await listApiKeysMadeBy(transaction, userId, teamId)).filter(has);
      const ids = rows.map(({ id }) => id);
      if (ids.length === 0) break;
      await revokeApiKeys(transaction, ids, new Date(this.#now()));
      for (const { id, team_id: of } of rows) await tellOfKey(transaction, "key.revoked", of, systemCaller(of).actor, id);
      all.push(...rows.map((row) => this.#revocation(row, userId))); // one of them may just have made another: it was waited for, and is seen now
    }
    this.#cache.clear();
    if (all.length > 0) this.#log.info({ apiKeyIds: all.map((entry) => entry.resource_id), madeBy: userId }, "API keys revoked");
    return all;
  }

  #revocation({ id, team_id: teamId }: ApiKeyRow, madeBy: string): PendingEntry {
    const resource = { kind: "api_key", id };
    return this.#audit.pending(systemCaller(teamId), { action: "key.revoke", resource, detail: { made_by: madeBy } });
  }

  /** Keys were changed by other means than these: nothing that is remembered of them is believed. */
  forget(): void {
    this.#cache.clear();
  }

  /** The key that `text` is; throws `api_key_invalid` for anything else. */
  async check(text: string): Promise<ApiKey> {
    const key = apiKeyPattern.test(text) ? await this.#cache.find(hashOf(digitsOf(text))) : undefined;
    if (key === undefined) throw new PlatformError("api_key_invalid", "this API key is not valid: there is none like it");
    const { timeRevoked, timeExpires } = key;
    if (timeRevoked !== null) this.#refuse(key, `this API key is not valid any more: it was revoked at ${timeRevoked.toISOString()}`);
    if (timeExpires !== null && timeExpires.getTime() <= this.#now()) {
      this.#refuse(key, `this API key is not valid any more: it expired at ${timeExpires.toISOString()}; make another one`);
    }
    this.#touch(key.id);
    return key;
  }

  async #insert(caller: Caller, wanted: NewApiKey, isAdmin: boolean): Promise<MadeApiKey> {
    const { name, scopes, expiresInSec } = wanted;
    const key = newApiKey();
    const digits = digitsOf(key);
    const now = this.#now();
    const row = {
      id: newId("k"),
      team_id: caller.teamId,
      name,
      hash: hashOf(digits),
      prefix: digits.slice(0, prefixLength),
      scopes: scopes === null ? null : [...new Set(scopes)],
      is_admin: isAdmin,
      time_created: new Date(now),
      time_expires: expiresInSec === null ? null : new Date(now + expiresInSec * 1000),
      created_by: caller.actor.kind === "system" ? null : caller.actor.id,
    };
    await this.#db.transaction().execute(async (transaction) => {
      if (!(await holdTeam(transaction, caller.teamId))) throw new PlatformError("api_key_invalid", "this team is no more");
      const others = await listApiKeys(transaction, caller.teamId);
      if (others.length >= apiKeysPerTeamMax) {
        throw new PlatformError("request_invalid", `a team may have at most ${apiKeysPerTeamMax} API keys; delete some that nobody uses`);
      }
      await this.#holdMaker(transaction, caller, wanted, row.time_expires);
      await insertApiKey(transaction, row);
      await tellOfKey(transaction, "key.created", row.team_id, caller.actor, row.id, { name });
      await this.#audit.record(transaction, caller, {
        action: "key.create",
        resource: { kind: "api_key", id: row.id },
        detail: { name, scopes: scopes?.join(" ") ?? "member" },
      });
    });
    this.#cache.clear(); // it may have been asked for before it was there
    this.#log.info({ apiKeyId: row.id, teamId: row.team_id, name }, "API key created");
    return { row: { ...row, time_last_used: null, time_revoked: null }, key };
  }

  /** Whoever makes a key keeps the right to for as long as that takes: whoever takes it away sees the key, and revokes it. */
  async #holdMaker(transaction: Db, caller: Caller, wanted: NewApiKey, timeExpires: Date | null): Promise<void> {
    const { actor, teamId } = caller;
    if (actor.kind === "api_key") limitToMaker(timeExpires, await holdMakingKey(transaction, teamId, actor.id));
    if (actor.kind !== "user") return;
    const user = await holdMakingUser(transaction, teamId, actor.id);
    if (user === undefined) throw new PlatformError("api_key_invalid", "you are not in this team any more");
    const { role, is_admin: isAdmin } = user;
    requireScopes({ ...caller, role, isAdmin, scopes: scopesOfUser(role, isAdmin) }, wanted); // as it is now, not as it was when the request came
  }

  async #lookUp(hash: Buffer): Promise<ApiKey | undefined> {
    const row = await findApiKey(this.#db, hash);
    if (row === undefined || !timingSafeEqual(row.hash, hash)) return undefined;
    const scopes = scopesOfKey(row);
    return {
      id: row.id,
      name: row.name,
      teamId: row.team_id,
      scopes,
      isAdmin: scopes.has("admin"),
      timeExpires: row.time_expires,
      timeRevoked: row.time_revoked,
    };
  }

  #touch(id: string): void {
    const now = this.#now();
    if (!isDue(this.#touched, id, now, touchIntervalMs)) return;
    touchApiKey(this.#db, id, new Date(now), new Date(now - touchIntervalMs)).catch((error: unknown) =>
      this.#log.warn({ err: error, apiKeyId: id }, "could not note the use of an API key"),
    );
  }

  #refuse(key: ApiKey, message: string): never {
    if (isDue(this.#refused, key.id, this.#now(), refusalIntervalMs)) {
      this.#log.warn({ apiKeyId: key.id, teamId: key.teamId }, "an API key was used that is not valid any more");
      const entry = { action: "key.refused", resource: { kind: "api_key", id: key.id }, status: "failure" } as const;
      const noted = this.#db.transaction().execute((transaction) => this.#audit.record(transaction, systemCaller(key.teamId), entry));
      noted.catch((error: unknown) => this.#log.warn({ err: error, apiKeyId: key.id }, "could not note the refusal of an API key"));
    }
    throw new PlatformError("api_key_invalid", message);
  }
}

/** What a key may do; platform scopes only where it was made with the right to them. */
export function scopesOfKey(row: Pick<ApiKeyRow, "scopes" | "is_admin">): ReadonlySet<Scope> {
  if (row.scopes === null) return row.is_admin ? allScopes : scopesOfRole.member;
  const may = (scope: Scope) => row.is_admin || !platformScopes.has(scope);
  return new Set((row.scopes as Scope[]).filter((scope) => allScopes.has(scope) && may(scope)));
}

function requireScopes(caller: Caller, { scopes }: NewApiKey): void {
  requireScope(caller, "keys:write");
  for (const scope of scopes ?? scopesOfRole.member) requireScope(caller, scope);
}

function limitToMaker(timeExpires: Date | null, maker: ApiKeyRow | undefined): void {
  if (maker === undefined) throw new PlatformError("api_key_invalid", "this API key is not valid any more: it was revoked");
  const latest = maker.time_expires;
  if (latest !== null && (timeExpires === null || timeExpires > latest)) {
    const limit = `it expires at ${latest.toISOString()}`;
    throw new PlatformError(
      "request_invalid",
      `expires_in_sec: an API key makes none that outlives it, and ${limit}; ask for one that ends before`,
    );
  }
}

function isDue(noted: Map<string, number>, id: string, now: number, intervalMs: number): boolean {
  if (now - (noted.get(id) ?? -Infinity) < intervalMs) return false;
  if (noted.size >= notesMax) noted.clear();
  noted.set(id, now);
  return true;
}

/** Characters of an id that are repeated to the caller */
const idShownMax = 60;

function apiKeyNotFound(id: string): PlatformError {
  return new PlatformError("api_key_not_found", `API key "${id.slice(0, idShownMax)}" was not found`);
}

function digitsOf(key: string): string {
  return key.slice(key.indexOf("_") + 1);
}

function hashOf(digits: string): Buffer {
  return createHash("sha256").update(digits, "latin1").digest();
}

async function tellOfKey(
  transaction: Db,
  kind: "key.created" | "key.revoked",
  teamId: string,
  actor: Actor,
  id: string,
  detail: Readonly<Record<string, string>> = {},
): Promise<void> {
  await emit(transaction, {
    kind,
    teamId,
    subject: { kind: "api_key", id },
    actor,
    message: `API key ${id} was ${kind.slice("key.".length)}`,
    detail,
  });
}
