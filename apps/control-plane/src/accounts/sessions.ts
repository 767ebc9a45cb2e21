import { randomUUID } from "node:crypto";

import { PlatformError } from "@roost/contract";
import { hour, minute, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import {
  deleteOldestSessions,
  deleteSession,
  deleteSessionsOf,
  findSession,
  insertSession,
  listSessions,
  setSessionTeam,
  touchSession,
  type SessionIdentity,
  type SessionRow,
} from "../db/sessions.ts";
import type { Requester } from "./requester.ts";
import { hashOfSecret, newSecret } from "./secrets.ts";

/** How long a look-up is believed in `ms`: what another control plane ended stops working here within a second */
export const sessionCacheMs = 750;
/** Look-ups remembered; above, the oldest is forgotten */
const cacheEntriesMax = 10_000;
/** A session that nobody uses ends after this in `ms`; one that is used, after the longer */
const idleMs = 14 * 24 * hour;
const lifeMs = 90 * 24 * hour;
/** A use is noted at most this often in `ms` per session */
const touchIntervalMs = 5 * minute;
/** Sessions of one user; above, the one that was not used for the longest time ends */
const sessionsPerUserMax = 50;
/** Characters that are kept of what a client says it is */
const clientLengthMax = 200;

const tokenPrefix = "session_";

export interface NewSession {
  /** Known to the client from now on, and to nobody else */
  readonly token: string;
  readonly row: SessionRow;
}

interface CacheEntry {
  readonly identity: Promise<SessionIdentity | undefined>;
  readonly timeExpires: number;
}

/** Sessions: made, looked up, ended. Of their tokens only hashes are kept. */
export class Sessions {
  readonly #db: Db;
  readonly #log: Logger;
  readonly #now: () => Date;
  readonly #cache = new Map<string, CacheEntry>();

  constructor(db: Db, log: Logger, now: () => Date = () => new Date()) {
    this.#db = db;
    this.#log = log;
    this.#now = now;
  }

  /** In the transaction of the sign-in. */
  async create(transaction: Db, userId: string, teamId: string | null, { client, address }: Requester): Promise<NewSession> {
    const token = tokenPrefix + newSecret();
    const now = this.#now();
    const row = {
      id: randomUUID(),
      token_hash: hashOfSecret(token),
      user_id: userId,
      team_id: teamId,
      client: client.replaceAll(/\p{Cc}/gu, "").slice(0, clientLengthMax),
      address,
      time_created: now,
      time_last_used: now,
      time_expires: new Date(now.getTime() + idleMs),
    };
    await insertSession(transaction, row);
    await deleteOldestSessions(transaction, userId, sessionsPerUserMax);
    return { token, row };
  }

  /** Whose session a token is of; undefined when it is of none. */
  async find(token: string): Promise<SessionIdentity | undefined> {
    const hash = hashOfSecret(token);
    const key = hash.toString("base64");
    const now = this.#now();
    let entry = this.#cache.get(key);
    if (entry === undefined || entry.timeExpires <= now.getTime()) {
      const identity = findSession(this.#db, hash, now);
      entry = { identity, timeExpires: now.getTime() + sessionCacheMs };
      this.#remember(key, entry);
    }
    const identity = await entry.identity.catch((error: unknown) => {
      this.#cache.delete(key); // the database may answer the next request
      throw error;
    });
    if (identity !== undefined) this.#touch(identity.session, now);
    return identity;
  }

  async list(userId: string): Promise<SessionRow[]> {
    return listSessions(this.#db, userId, this.#now());
  }

  /** Throws `session_not_found`. */
  async revoke(transaction: Db, userId: string, id: string): Promise<void> {
    if (!(await deleteSession(transaction, userId, id))) {
      throw new PlatformError("session_not_found", `you have no session "${id}"; it may have ended already`);
    }
  }

  async revokeAll(transaction: Db, userId: string, exceptId?: string): Promise<number> {
    return deleteSessionsOf(transaction, userId, exceptId);
  }

  async switchTeam(transaction: Db, id: string, teamId: string): Promise<void> {
    await setSessionTeam(transaction, id, teamId);
  }

  /** Something about sessions, users or memberships was changed and committed: nothing that is remembered of them is believed. */
  forget(): void {
    this.#cache.clear();
  }

  #remember(key: string, entry: CacheEntry): void {
    this.#cache.delete(key);
    this.#cache.set(key, entry);
    if (this.#cache.size <= cacheEntriesMax) return;
    const oldest = this.#cache.keys().next();
    if (oldest.done !== true) this.#cache.delete(oldest.value);
  }

  #touch(session: SessionRow, now: Date): void {
    if (now.getTime() - session.time_last_used.getTime() < touchIntervalMs) return;
    session.time_last_used = now; // the cached row: not again with the next request
    const end = Math.min(now.getTime() + idleMs, session.time_created.getTime() + lifeMs);
    touchSession(this.#db, session.id, now, new Date(end)).catch((error: unknown) =>
      this.#log.warn({ err: error, sessionId: session.id }, "could not note the use of a session"),
    );
  }
}
