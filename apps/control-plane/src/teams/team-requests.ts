import { PlatformError } from "@roost/contract";
import { second } from "@roost/kit";
import { RateLimiterMemory } from "rate-limiter-flexible";

import type { Db } from "../db/database.ts";
import { findTeam, quotaOf } from "../db/teams.ts";

/** How long a team's quota is believed in `ms` */
const quotaCacheMs = 10 * second;
/** Teams whose quota is remembered; above, all are forgotten */
const teamsMax = 10_000;
const windowSec = 60;

/**
 * Requests of each team, against its `requests_per_minute`. Each control plane counts those that it gets: a write for each request would cost more
 * than most requests do. Behind a load balancer a team may therefore get up to its quota from each.
 */
export class TeamRequests {
  readonly #db: Db;
  readonly #now: () => number;
  /** Counts; what is too many is compared here */
  readonly #counter = new RateLimiterMemory({ points: Number.MAX_SAFE_INTEGER, duration: windowSec });
  readonly #quotas = new Map<string, { readonly perMinute: Promise<number | null>; readonly timeExpires: number }>();

  constructor(db: Db, now: () => number = Date.now) {
    this.#db = db;
    this.#now = now;
  }

  /** Counts one; throws `rate_limited` when it is one too many. */
  async count(teamId: string): Promise<void> {
    const perMinute = await this.#quotaOf(teamId);
    if (perMinute === null) return;
    const { consumedPoints, msBeforeNext } = await this.#counter.consume(teamId);
    if (consumedPoints <= perMinute) return;
    const retryAfterSec = Math.max(1, Math.ceil(msBeforeNext / 1000));
    throw new PlatformError("rate_limited", `the team may make ${perMinute} requests a minute; try again in ${retryAfterSec} s`, {
      retryAfterSec,
    });
  }

  /** A quota was changed. */
  forget(): void {
    this.#quotas.clear();
  }

  async #quotaOf(teamId: string): Promise<number | null> {
    const known = this.#quotas.get(teamId);
    if (known !== undefined && known.timeExpires > this.#now()) return known.perMinute;
    const perMinute = findTeam(this.#db, teamId).then((team) => (team === undefined ? null : quotaOf(team).requests_per_minute));
    if (this.#quotas.size >= teamsMax) this.#quotas.clear();
    this.#quotas.set(teamId, { perMinute, timeExpires: this.#now() + quotaCacheMs });
    perMinute.catch(() => this.#quotas.delete(teamId));
    return perMinute;
  }
}
