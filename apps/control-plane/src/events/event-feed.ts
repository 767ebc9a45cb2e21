import { includesKind } from "@roost/contract";
import { nap, ServiceLoop, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { lookAtStream, publishEvents, readStream, readStreamFor } from "../db/event-stream.ts";
import { forgottenUntil, type EventAudience, type EventRow } from "../db/events.ts";
import { deliveryTimeoutMs } from "../channels/attempt-times.ts";

/** Time between two looks for events in `ms`: what a follower waits at most, besides the network. A look is one query of one row */
const lookIntervalMs = 250;
/** Newest events that are kept here for followers; who is further behind reads the table */
const recentMax = 1_000;
/** Events that are read from the table at once */
const readAtOnce = 200;

/** What somebody wants of the stream. */
export interface EventWish {
  readonly audience: EventAudience;
  readonly sandboxId?: string | undefined;
  readonly kinds?: readonly string[] | undefined;
}

/** What comes after a position, as far as it is known. */
export interface EventStretch {
  readonly events: readonly EventRow[];
  /** Nothing up to here is missing, but for what was forgotten */
  readonly position: number;
  /** Up to where something of what came after the asked position had been forgotten when it was read; undefined: nothing was */
  readonly forgottenUntil?: number | undefined;
}

export interface EventFeedDependencies {
  readonly db: Db;
  readonly log: Logger;
  /** Called after deliveries may have been made. */
  readonly onPublished?: () => void;
  readonly now?: () => Date;
}

/**
 * Publishes events (../db/event-stream.ts), also those of other control planes that do not get to it, and has the newest at hand, so that a thousand
 * followers do not mean a thousand queries. Followers pull: one that is slow is behind, and nothing waits for it here.
 */
export class EventFeed {
  readonly #deps: EventFeedDependencies;
  readonly #log: Logger;
  #loop: ServiceLoop | undefined;
  /** Newest position known here; undefined before the first look */
  #position: number | undefined;
  /** All events after `#recentAfter`, up to `#position` */
  #recent: EventRow[] = [];
  #recentAfter = 0;
  #wake = new AbortController();

  constructor(deps: EventFeedDependencies) {
    this.#deps = deps;
    this.#log = deps.log.child({ service: "event-feed" });
  }

  /** Looks for events now. */
  poke(): void {
    this.#loop?.poke();
  }

  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("event feed", this.#log, signal);
    this.#loop = loop;
    await loop.every(lookIntervalMs, async () => this.look());
  }

  /** One look: publishes what waits, and reads what is new. */
  async look(): Promise<void> {
    const { db, onPublished } = this.#deps;
    let state = await lookAtStream(db);
    if (state.isWaiting) {
      while ((await this.#publish()) > 0);
      state = await lookAtStream(db);
      onPublished?.();
    }
    await this.#advance(state.position);
  }

  async #publish(): Promise<number> {
    const now = this.#deps.now?.() ?? new Date();
    return publishEvents(this.#deps.db, { now, timeExpires: new Date(now.getTime() + deliveryTimeoutMs) });
  }

  async #advance(position: number): Promise<void> {
    if (this.#position === undefined) {
      this.#position = position;
      this.#recentAfter = position;
    }
    while (this.#position < position) {
      const rows = await readStream(this.#deps.db, this.#position, readAtOnce);
      this.#recent.push(...rows);
      const surplus = this.#recent.length - recentMax;
      if (surplus > 0) {
        const dropped = this.#recent.splice(0, surplus);
        this.#recentAfter = dropped.at(-1)?.position ?? this.#recentAfter;
      }
      this.#position = rows.length < readAtOnce ? position : (rows.at(-1)?.position ?? position);
      const waiting = this.#wake;
      this.#wake = new AbortController();
      waiting.abort();
    }
  }

  /** The newest position that there is. */
  async position(): Promise<number> {
    return this.#position ?? (await lookAtStream(this.#deps.db)).position;
  }

  /** Up to where of what comes after a position something was forgotten that somebody could see; undefined: nothing was. */
  async forgottenAfter(audience: EventAudience, position: number): Promise<number | undefined> {
    if (this.#position !== undefined && position >= this.#recentAfter) return undefined; // the table may have forgotten it, this has not
    const until = await forgottenUntil(this.#deps.db, audience);
    return until > position ? until : undefined;
  }

  /** What there is after a position; when there is nothing yet, what comes within `waitMs`. Answers early when `signal` aborts. */
  async next(wish: EventWish, after: number, waitMs: number, signal: AbortSignal): Promise<EventStretch> {
    const { signal: news } = this.#wake;
    const position = await this.position();
    if (after >= position) {
      await nap(waitMs, AbortSignal.any([signal, news]));
      return { events: [], position: after };
    }
    if (this.#position !== undefined && after >= this.#recentAfter) {
      const events = this.#recent.filter((row) => (row.position ?? 0) > after && isSeenBy(row, wish.audience));
      return { events: events.filter((row) => isWanted(row, wish)), position: this.#position };
    }
    const rows = await readStreamFor(this.#deps.db, wish.audience, after, readAtOnce);
    const last = rows.at(-1)?.position ?? position;
    return {
      events: rows.filter((row) => isWanted(row, wish)),
      position: rows.length < readAtOnce ? Math.max(position, last) : last,
      // after the read: what is forgotten before or in it is missing there
      forgottenUntil: await this.forgottenAfter(wish.audience, after),
    };
  }
}

function isSeenBy(row: EventRow, { teamId, isAdmin }: EventAudience): boolean {
  return row.team_id === teamId || (row.team_id === null && isAdmin);
}

function isWanted(row: EventRow, { sandboxId, kinds }: EventWish): boolean {
  return (sandboxId === undefined || row.sandbox_id === sandboxId) && includesKind(kinds ?? [], row.kind);
}
