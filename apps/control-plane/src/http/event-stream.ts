import type { ServerResponse } from "node:http";

import { PlatformError, type EventGap } from "@roost/contract";
import { must, second } from "@roost/kit";

import type { EventFeed, EventWish } from "../events/event-feed.ts";
import { viewEvent } from "../events/event-view.ts";

/** Time between two signs of life in `ms`: proxies close what is silent for longer than 30 to 60 s */
const keepAliveMsDefault = 15 * second;
/** Time that a client has to take what was sent to it in `ms`; one that is slower is cut off, and resumes */
const drainTimeoutMs = 30 * second;
/** Streams at once, of one team and of all: each is a connection and a timer */
const streamsPerTeamMax = 100;
const streamsMax = 1_000;
/** What a client is told to wait before it connects again, in `ms` */
const retryMs = 2 * second;

interface StreamStart {
  readonly position: number;
  readonly gap?: EventGap;
}

/** What a stream needs of its request. */
export interface StreamRequest {
  readonly wish: EventWish;
  /** Position of the last event that the client has; undefined: it wants what comes from now on */
  readonly after: number | undefined;
  /** Resolves, or rejects with why, when the caller may not follow any more. */
  readonly revoked: (signal: AbortSignal) => Promise<void>;
}

/**
 * Server-sent events. A stream is a position and a loop that asks the feed what comes after it: what a client has seen is its own business, told in
 * `Last-Event-ID`, so that any control plane can go on where another one stopped. Nothing is sent twice on one connection and nothing is left out; what was
 * forgotten meanwhile is told as a `gap`. Backpressure is the client's: the next events are read when the last ones are out.
 */
export class EventStreams {
  readonly #feed: EventFeed;
  readonly #keepAliveMs: number;
  readonly #counts = new Map<string, number>();
  #count = 0;
  readonly #end = new AbortController();
  readonly #running = new Set<Promise<void>>();

  constructor(feed: EventFeed, keepAliveMs = keepAliveMsDefault) {
    this.#feed = feed;
    this.#keepAliveMs = keepAliveMs;
  }

  /** Ends all streams: their clients connect again, to another control plane or to the next one. */
  async drain(): Promise<void> {
    this.#end.abort();
    await Promise.all(this.#running);
  }

  /** Throws when there are too many; else serves one until somebody ends it. `open`: takes the response over, once nothing can be refused any more. */
  async serve(request: StreamRequest, open: () => ServerResponse, gone: AbortSignal): Promise<void> {
    const { teamId } = request.wish.audience;
    const start = await this.#startOf(request);
    const ofTeam = this.#counts.get(teamId) ?? 0;
    if (ofTeam >= streamsPerTeamMax || this.#count >= streamsMax) {
      throw new PlatformError("rate_limited", "too many streams of events are open; close one first", { retryAfterSec: 10 });
    }
    this.#count += 1;
    this.#counts.set(teamId, ofTeam + 1);
    const ended = new AbortController();
    const signal = AbortSignal.any([gone, this.#end.signal, ended.signal]);
    const running = this.#serve(request.wish, start, open(), signal).finally(() => {
      ended.abort();
      this.#count -= 1;
      const left = (this.#counts.get(teamId) ?? 1) - 1;
      if (left === 0) this.#counts.delete(teamId);
      else this.#counts.set(teamId, left);
    });
    this.#running.add(running);
    request.revoked(ended.signal).catch(() => ended.abort());
    try {
      await running;
    } finally {
      this.#running.delete(running);
    }
  }

  /** Where a client goes on, and what it has missed for good. */
  async #startOf({ wish, after }: StreamRequest): Promise<StreamStart> {
    const newest = await this.#feed.position();
    if (after === undefined) return { position: newest };
    // A position that was never given out is one of another database: what came after it is not known here
    if (after > newest) return { position: newest, gap: { after: 0, until: newest } };
    const until = await this.#feed.forgottenAfter(wish.audience, after);
    return until === undefined ? { position: after } : { position: after, gap: { after, until } };
  }

  async #serve(wish: EventWish, start: StreamStart, response: ServerResponse, signal: AbortSignal): Promise<void> {
    try {
      let { position } = start;
      await write(response, `retry: ${retryMs}\n\n`, signal);
      if (start.gap !== undefined) await write(response, frame(start.gap.until, start.gap, "gap"), signal);
      // So that who is cut off before anything happened goes on from here, too
      await write(response, positionFrame(position), signal);
      let silentSince = performance.now();
      let toldUntil = start.gap?.until ?? 0;
      while (!signal.aborted) {
        const waitMs = this.#keepAliveMs - (performance.now() - silentSince);
        if (waitMs <= 0) {
          await write(response, positionFrame(position), signal);
          silentSince = performance.now();
          continue;
        }
        const stretch = await this.#feed.next(wish, position, waitMs, signal);
        // A client that is slow may be overtaken by what is forgotten. Its id is where the client is: of what is left nothing is passed over
        if (stretch.forgottenUntil !== undefined && stretch.forgottenUntil > toldUntil) {
          toldUntil = stretch.forgottenUntil;
          await write(response, frame(position, { after: position, until: toldUntil } satisfies EventGap, "gap"), signal);
        }
        for (const row of stretch.events) {
          if (signal.aborted) return;
          await write(response, frame(must(row.position, "what the feed gives is published"), viewEvent(row)), signal);
          silentSince = performance.now();
        }
        position = stretch.position;
      }
    } catch (error) {
      if (!(error instanceof SlowClientError)) throw error;
    } finally {
      // What does not flow would keep a shutdown waiting
      if (response.writableNeedDrain) response.destroy();
      else response.end();
    }
  }
}

class SlowClientError extends Error {}

function frame(position: number, data: unknown, type?: "gap" | "position"): string {
  return `id: ${position}\n${type === undefined ? "" : `event: ${type}\n`}data: ${JSON.stringify(data)}\n\n`;
}

/** Also a sign of life. */
function positionFrame(position: number): string {
  return frame(position, { position }, "position");
}

/** Resolves when the client may be sent more. */
async function write(response: ServerResponse, text: string, signal: AbortSignal): Promise<void> {
  if (signal.aborted || response.destroyed || response.write(text)) return;
  const timeout = AbortSignal.timeout(drainTimeoutMs);
  await new Promise<void>((resolve, reject) => {
    const done = () => {
      response.off("drain", done);
      response.off("close", done);
      signal.removeEventListener("abort", done);
      timeout.removeEventListener("abort", late);
      resolve();
    };
    const late = () => {
      done();
      response.destroy();
      reject(new SlowClientError("the client does not take what it is sent"));
    };
    response.once("drain", done);
    response.once("close", done);
    signal.addEventListener("abort", done);
    timeout.addEventListener("abort", late);
  });
}
