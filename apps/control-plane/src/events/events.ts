import type { EventList, ListEventsQuery } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import { findLastEventId, insertEvent, listEvents, type EventAudience, type NewEvent } from "../db/events.ts";
import { decodeEventCursor, encodeEventCursor } from "./event-cursor.ts";
import { viewEvent } from "./event-view.ts";

/** What happened: what hosts told, and what the control plane did (./outbox.ts). */
export class Events {
  readonly #db: Db;
  readonly #log: Logger;
  readonly #now: () => Date;

  constructor(db: Db, log: Logger, now: () => Date = () => new Date()) {
    this.#db = db;
    this.#log = log;
    this.#now = now;
  }

  /**
   * Remembers what a host told; what was told before is not remembered twice. Nothing has happened that is yet to come: an event from a clock that is ahead would
   * be the newest of all lists for so long, and be kept for so much longer.
   */
  async record(told: NewEvent): Promise<void> {
    const now = this.#now();
    const event = told.time > now ? { ...told, time: now } : told;
    if (!(await insertEvent(this.#db, event))) return;
    const { kind, hostId, sandboxId, template, message } = event;
    this.#log.debug({ event: kind, hostId, sandboxId, template }, message);
  }

  /** Id of what was heard last from a host. */
  async lastOf(hostId: string): Promise<string | undefined> {
    return findLastEventId(this.#db, hostId);
  }

  /** What somebody may see of it, newest first. */
  async list(audience: EventAudience, query: ListEventsQuery): Promise<EventList> {
    const rows = await listEvents(this.#db, {
      audience,
      ...(query.sandbox_id === undefined ? {} : { sandboxId: query.sandbox_id }),
      ...(query.cursor === undefined ? {} : { after: decodeEventCursor(query.cursor) }),
      limit: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const last = page.at(-1);
    const hasMore = rows.length > query.limit && last !== undefined;
    return {
      events: page.map(viewEvent),
      next_cursor: hasMore ? encodeEventCursor({ timeCreated: last.time_created, number: last.number }) : null,
    };
  }
}
