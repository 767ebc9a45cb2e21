import type { IncomingMessage } from "node:http";
import { setTimeout as sleep } from "node:timers/promises";

import { eventGapSchema, eventSchema, type Event, type EventGap, type EventList } from "@roost/contract";
import { createParser, type EventSourceMessage } from "eventsource-parser";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";
import { RoostError } from "./errors.ts";

export interface EventOptions extends RequestOptions {
  /** Only those of one sandbox. */
  readonly sandboxId?: string | undefined;
  /** Events per page. */
  readonly limit?: number | undefined;
}

export interface FollowEventsOptions extends RequestOptions {
  /** Only those of one sandbox. */
  readonly sandboxId?: string | undefined;
  /** Only these kinds; `sandbox.*` is all of an area. */
  readonly kinds?: readonly string[] | undefined;
  /** Position of the last event that is known; default: what comes from now on. */
  readonly after?: number | undefined;
  /** Called when events were forgotten before they could be had: between these positions some are missing. */
  readonly onGap?: ((gap: EventGap) => void) | undefined;
}

/** A platform that restarts takes seconds; one that is away for longer than this in `ms` is reported */
const awayMsMax = 120_000;
/** Time between attempts to reach it again in `ms`, doubling */
const retryMsMin = 250;
const retryMsMax = 5_000;
/** A stream that is silent for longer than this in `ms` is dead: the server gives a sign of life every 15 s */
const silenceMsMax = 45_000;
/** Longest message in characters that is put together: an event is far shorter */
const messageLengthMax = 1024 * 1024;

/** What happened, and what happens. */
export class Events {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** What happened, newest first; further pages are fetched as they are reached. */
  async *list(options: EventOptions = {}): AsyncGenerator<Event, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.listPage(options, cursor);
      yield* page.events;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async listPage(options: EventOptions = {}, cursor?: string): Promise<EventList> {
    const query = { sandbox_id: options.sandboxId, limit: options.limit === undefined ? undefined : String(options.limit), cursor };
    return this.#api.call("listEvents", { query }, options);
  }

  /**
   * What happens, in order, until `signal` aborts. A connection that breaks is opened again and goes on behind the last event: none is missed and none comes twice. To go on in another
   * process, keep the `position` of the last event and give it as `after`.
   */
  async *follow(options: FollowEventsOptions = {}): AsyncGenerator<Event, void, void> {
    const progress = { position: options.after, lastSignOfLife: performance.now() };
    let delayMs = retryMsMin;
    for (;;) {
      try {
        for await (const event of this.#stream(options, progress)) {
          delayMs = retryMsMin;
          yield event;
        }
      } catch (error) {
        options.signal?.throwIfAborted();
        const mayReturn = error instanceof RoostError && error.retryable && performance.now() - progress.lastSignOfLife < awayMsMax;
        if (!mayReturn) throw error;
      }
      await sleep(delayMs, undefined, { signal: options.signal }).catch((error: unknown) => {
        throw options.signal?.reason ?? error;
      });
      delayMs = Math.min(2 * delayMs, retryMsMax);
    }
  }

  /** One connection. */
  async *#stream(options: FollowEventsOptions, progress: Progress): AsyncGenerator<Event, void, void> {
    const { sandboxId, kinds, onGap, signal, timeoutMs } = options;
    const { position } = progress;
    const query = { sandbox_id: sandboxId, kinds: kinds?.join(","), after: position === undefined ? undefined : String(position) };
    const answer = await this.#api.raw("followEvents", { query }, { signal, timeoutMs });
    for await (const { id, event: type, data } of messagesOf(answer)) {
      progress.lastSignOfLife = performance.now();
      const json = parseData(data);
      if (type === undefined) yield checked(eventSchema, json);
      else if (type === "gap") onGap?.(checked(eventGapSchema, json));
      // after the event was taken: who stops here has it still to come
      if (id !== undefined && /^\d{1,15}$/.test(id)) progress.position = Number(id);
    }
  }
}

interface Progress {
  /** Of the last event that was handed out; undefined: not known yet */
  position: number | undefined;
  lastSignOfLife: number;
}

async function* messagesOf(answer: IncomingMessage): AsyncGenerator<EventSourceMessage, void, void> {
  const messages: EventSourceMessage[] = [];
  let length = 0;
  const parser = createParser({
    onEvent: (message) => {
      length = 0;
      messages.push(message);
    },
  });
  const decoder = new TextDecoder();
  const watchdog = setTimeout(() => answer.destroy(new Error("silence")), silenceMsMax);
  try {
    for await (const chunk of answer as AsyncIterable<Buffer>) {
      watchdog.refresh();
      length += chunk.length;
      parser.feed(decoder.decode(chunk, { stream: true }));
      if (length > messageLengthMax) throw new RoostError("answer_invalid", "the server sent an event without an end");
      yield* messages.splice(0);
      watchdog.refresh(); // the time that an event was worked at is no silence
    }
  } catch (error) {
    if (error instanceof RoostError) throw error;
    throw new RoostError("connection_lost", "the stream of events broke off", { cause: error });
  } finally {
    clearTimeout(watchdog);
    answer.destroy();
  }
}

function parseData(data: string): unknown {
  try {
    return JSON.parse(data);
  } catch (error) {
    throw new RoostError("answer_invalid", "the server sent an event that is not JSON", { cause: error });
  }
}

function checked<Value>(schema: { safeParse(json: unknown): { success: true; data: Value } | { success: false } }, json: unknown): Value {
  const parsed = schema.safeParse(json);
  if (!parsed.success) throw new RoostError("answer_invalid", "the server sent an event that this client does not understand");
  return parsed.data;
}
