import { appendFile, mkdir, readdir, readFile, rm, stat } from "node:fs/promises";
import { join } from "node:path";

import { PlatformError, type GuestLogCursor, type LogEntry, type LogQuery } from "@roost/contract";
import { must } from "@roost/kit";

import { cursorLine, entryLine, parseCursorLine, parseEntryLine, timeOfLine } from "./log-lines.ts";
import { entriesPerMsMax, LogSelection } from "./log-selection.ts";

/** How large a sandbox's log may become. */
export interface LogLimits {
  readonly segmentBytesMax: number;
  readonly segmentsMax: number;
}

/**
 * How far in `ms` instants may run ahead of the clock. A cursor cannot tell entries of one instant apart, so each entry has its own, later than
 * the one before; beyond this, which a flood reaches, `entriesPerMsMax` share one.
 */
const aheadMsMax = 1_000;

/** Appends that may wait for the disk; above, entries are dropped rather than memory filled. */
const appendsWaitingMax = 64;

/** Queries that may wait for their turn; each reads up to the whole log, and appends wait behind them. */
export const queriesWaitingMax = 16;

const segmentName = /^\d{8}\.jsonl$/;
/** What sandboxes wrote is their owners' business, not that of the machine's other users. */
const fileMode = 0o600;

interface Segment {
  readonly number: number;
  bytes: number;
  /** No entry in it is later, in Unix `ms`: who follows a log has no use for older segments */
  latestMs: number;
}

/**
 * The log of one sandbox: a folder of segments to which lines are appended; the oldest segment goes when there are too many. Nothing is
 * synced: what a crash of the machine takes are the last seconds of a log. A line that was cut is skipped.
 *
 * The instants of entries never go back: a cursor is only of use when nothing is written behind it.
 */
export class SandboxLog {
  readonly #folder: string;
  readonly #limits: LogLimits;
  readonly #now: () => number;
  #segments: Segment[] | undefined;
  #cursor: GuestLogCursor | undefined;
  #newestMs = 0;
  /** Entries of the newest instant */
  #newestCount = 0;
  /** The end of the queue of what is done to the files; never rejects. */
  #last: Promise<unknown> = Promise.resolve();
  #appendsWaiting = 0;
  #queriesWaiting = 0;

  /** `now`: Unix `ms` */
  constructor(folder: string, limits: LogLimits, now: () => number = Date.now) {
    this.#folder = folder;
    this.#limits = limits;
    this.#now = now;
  }

  /** Appends entries, and what they say of how far the guest's log has been followed. Rejects when the disk does not take them. */
  async append(entries: readonly LogEntry[], cursor?: GuestLogCursor): Promise<void> {
    if (this.#appendsWaiting >= appendsWaitingMax) throw new Error("the disk is too slow for the sandbox's log");
    this.#appendsWaiting += 1;
    await this.#inTurn(async (segments) => {
      const latestMs = this.#now() + aheadMsMax;
      const lines = entries.map((entry) => entryLine({ ...entry, timeMs: this.#stamp(entry.timeMs, latestMs) }));
      if (cursor !== undefined) lines.push(cursorLine(cursor));
      await this.#write(segments, lines);
      this.#cursor = cursor ?? this.#cursor;
    }).finally(() => (this.#appendsWaiting -= 1));
  }

  /** How far the guest's log has been followed. */
  async cursor(): Promise<GuestLogCursor | undefined> {
    return this.#inTurn(async () => this.#cursor);
  }

  /** What answers the query; undefined when there is no log. Rejects with `sandbox_busy` when too many are asked at once. */
  async query(query: LogQuery): Promise<LogEntry[] | undefined> {
    if (this.#queriesWaiting >= queriesWaitingMax) {
      throw new PlatformError("sandbox_busy", "too many requests for this sandbox's log at once; try again in a moment", {
        retryAfterSec: 1,
      });
    }
    this.#queriesWaiting += 1;
    return this.#inTurn(async (segments) => {
      if (segments.length === 0) return undefined;
      const selection = new LogSelection(query);
      const isForward = query.direction === "forward";
      for (const segment of isForward ? segments : segments.toReversed()) {
        if (isForward && !selection.spans(segment.latestMs)) continue;
        const lines = (await this.#read(segment)).split("\n");
        if (!isForward) lines.reverse();
        if (!offerAll(lines, selection)) break;
      }
      const { entries } = selection;
      // What comes next is later than what was told, so that who asks after the last entry's instant misses nothing
      if (entries.some(({ timeMs }) => timeMs === this.#newestMs)) this.#newestCount = entriesPerMsMax;
      return entries;
    }).finally(() => (this.#queriesWaiting -= 1));
  }

  /** What its files hold in `bytes`. */
  async bytes(): Promise<number> {
    return this.#inTurn(async (segments) => segments.reduce((sum, segment) => sum + segment.bytes, 0));
  }

  /** Gives up the oldest segment, unless it is the only one. Answers what that freed in `bytes`. */
  async shrink(): Promise<number> {
    return this.#inTurn(async (segments) => {
      const [oldest] = segments;
      if (oldest === undefined || segments.length === 1) return 0;
      await this.#dropOldest(segments, segments.length - 1);
      return oldest.bytes;
    });
  }

  /** Resolves when everything that was asked for is done. */
  async settled(): Promise<void> {
    await this.#last;
  }

  async #inTurn<Result>(work: (segments: Segment[]) => Promise<Result>): Promise<Result> {
    const done = this.#last.then(async () => work(await this.#load()));
    this.#last = done.catch(() => undefined); // who asked is told
    return done;
  }

  #stamp(timeMs: number, latestMs: number): number {
    if (timeMs > this.#newestMs) [this.#newestMs, this.#newestCount] = [timeMs, 1];
    else if (this.#newestMs >= latestMs && this.#newestCount < entriesPerMsMax) this.#newestCount += 1;
    else [this.#newestMs, this.#newestCount] = [this.#newestMs + 1, 1];
    return this.#newestMs;
  }

  async #write(segments: Segment[], lines: readonly string[]): Promise<void> {
    if (segments.length === 0) await mkdir(this.#folder, { recursive: true, mode: 0o700 });
    let text = "";
    let bytes = 0;
    const flush = async () => {
      const segment = segments.at(-1);
      if (segment === undefined || text === "") return;
      segment.latestMs = this.#newestMs;
      segment.bytes += bytes; // also when it fails: how much got there is not known
      await appendFile(join(this.#folder, nameOf(segment)), text, { mode: fileMode });
      [text, bytes] = ["", 0];
    };
    for (const line of lines) {
      const lineBytes = Buffer.byteLength(line);
      const newest = segments.at(-1);
      if (newest === undefined || (newest.bytes + bytes + lineBytes > this.#limits.segmentBytesMax && newest.bytes + bytes > 0)) {
        await flush();
        segments.push({ number: (newest?.number ?? 0) + 1, bytes: 0, latestMs: this.#newestMs });
        await this.#dropOldest(segments, this.#limits.segmentsMax);
      }
      text += line;
      bytes += lineBytes;
    }
    await flush();
  }

  async #dropOldest(segments: Segment[], segmentsMax: number): Promise<void> {
    while (segments.length > segmentsMax) {
      const oldest = must(segments.shift(), "the oldest segment");
      await rm(join(this.#folder, nameOf(oldest)), { force: true });
    }
  }

  /** What an earlier host agent wrote, once: sizes, the newest instant and cursor. */
  async #load(): Promise<Segment[]> {
    if (this.#segments !== undefined) return this.#segments;
    const names = await readdir(this.#folder).catch(() => []); // there is none yet
    const segments: Segment[] = [];
    for (const name of names.filter((each) => segmentName.test(each)).sort()) {
      const { size } = await stat(join(this.#folder, name));
      segments.push({ number: Number(name.slice(0, 8)), bytes: size, latestMs: 0 });
    }
    for (const segment of segments.toReversed()) {
      const text = await this.#read(segment);
      if (segment === segments.at(-1) && text !== "" && !text.endsWith("\n")) {
        await appendFile(join(this.#folder, nameOf(segment)), "\n"); // a crash cut its last line: the next one must not become part of it
        segment.bytes += 1;
      }
      for (const line of text.split("\n").reverse()) {
        this.#newestMs = Math.max(this.#newestMs, timeOfLine(line) ?? 0);
        this.#cursor ??= parseCursorLine(line);
        if (this.#cursor !== undefined && this.#newestMs > 0) break;
      }
      if (this.#cursor !== undefined && this.#newestMs > 0) break;
    }
    for (const segment of segments) segment.latestMs = this.#newestMs;
    this.#newestCount = entriesPerMsMax; // how many there are of that instant was not counted
    return (this.#segments = segments);
  }

  async #read(segment: Segment): Promise<string> {
    return readFile(join(this.#folder, nameOf(segment)), "utf8");
  }
}

function nameOf({ number }: Segment): string {
  return `${String(number).padStart(8, "0")}.jsonl`;
}

/** False when no further line can matter. */
function offerAll(lines: readonly string[], selection: LogSelection): boolean {
  for (const line of lines) {
    const timeMs = timeOfLine(line);
    if (timeMs === undefined || !selection.spans(timeMs)) continue;
    const entry = parseEntryLine(line);
    if (entry !== undefined && !selection.offer(entry)) return false;
  }
  return true;
}
