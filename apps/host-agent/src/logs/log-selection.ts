import { logLevels, type LogEntry, type LogQuery } from "@roost/contract";

/** Entries that a log gives the same instant at most, in a flood; else each has its own. */
export const entriesPerMsMax = 100;

/**
 * What of a log answers a query.
 *
 * Cursors are instants in ms. Where entries share one, a full page ends where an instant ends: who goes on behind its last entry misses none.
 * Smaller pages than an instant may have entries are what was asked for.
 */
export class LogSelection {
  readonly #query: LogQuery;
  readonly #leastLevel: number;
  readonly #found: LogEntry[] = [];

  constructor(query: LogQuery) {
    this.#query = query;
    this.#leastLevel = query.level === undefined ? 0 : logLevels.indexOf(query.level);
  }

  /** Whether entries of this instant may be part of it: asked before an entry is read at all. */
  spans(timeMs: number): boolean {
    const { cursorMs, direction } = this.#query;
    return cursorMs === undefined || (direction === "forward" ? timeMs >= cursorMs : timeMs < cursorMs);
  }

  /** Takes entries in the order of the query; false when no further one can matter. */
  offer(entry: LogEntry): boolean {
    const { search, limit } = this.#query;
    const matches =
      this.spans(entry.timeMs) &&
      logLevels.indexOf(entry.level) >= this.#leastLevel &&
      (search === undefined || entry.message.includes(search));
    if (matches) this.#found.push(entry);
    return this.#found.length <= limit; // one more than the page has: it tells whether the page's last instant is whole
  }

  get entries(): LogEntry[] {
    const { limit } = this.#query;
    const next = this.#found[limit];
    if (next === undefined) return this.#found;
    const whole = this.#found.findIndex(({ timeMs }) => timeMs === next.timeMs);
    return this.#found.slice(0, limit < entriesPerMsMax ? limit : whole);
  }
}
