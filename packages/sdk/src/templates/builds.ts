import { setTimeout as sleep } from "node:timers/promises";

import { endpoints, type Build, type BuildList, type BuildLogLevel, type BuildLogLine, type BuildState } from "@roost/contract";

import type { Api } from "../api.ts";
import { savingTimeoutMs, type RequestOptions } from "../connection.ts";
import { RoostError } from "../errors.ts";

export interface ListBuildsOptions extends RequestOptions {
  /** Only those of one template, by name or id */
  readonly template?: string | undefined;
  readonly state?: BuildState | undefined;
  /** Builds per page */
  readonly limit?: number | undefined;
}

export interface BuildLogOptions extends RequestOptions {
  /** The least important level */
  readonly level?: BuildLogLevel | undefined;
  /** Backward: from the newest */
  readonly direction?: "forward" | "backward" | undefined;
}

export interface FollowOptions extends RequestOptions {
  /** Number of the first line; default: 0 */
  readonly offset?: number | undefined;
}

/** What happens in a build that is followed. `build` comes first and whenever it has changed; `end` is the last. */
export type BuildEvent = { readonly type: "build" | "end"; readonly build: Build } | { readonly type: "line"; readonly line: BuildLogLine };

/** Lines that one request asks for */
const logPageSize = 1000;
/** A platform that restarts takes seconds; one that is away for longer than this in `ms` is reported */
const awayMsMax = 120_000;
/** Time between attempts to reach it again in `ms`, doubling */
const retryMsMin = 250;
const retryMsMax = 5_000;

/** Builds of templates: what becomes of them, and their logs. */
export class Builds {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Newest first; further pages are fetched as they are reached. */
  async *list(options: ListBuildsOptions = {}): AsyncGenerator<Build, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.listPage(options, cursor);
      yield* page.builds;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async listPage(options: ListBuildsOptions = {}, cursor?: string): Promise<BuildList> {
    const { template, state, limit } = options;
    return this.#api.call(
      "listBuilds",
      { query: { template, state, limit: limit === undefined ? undefined : String(limit), cursor } },
      options,
    );
  }

  async get(id: string, options: RequestOptions = {}): Promise<Build> {
    return this.#api.call("getBuild", { path: { build: id } }, options);
  }

  /** Asks a build to end; one that has ended stays what it is. Answers at once: `follow` tells when it is over. */
  async cancel(id: string, options: RequestOptions = {}): Promise<Build> {
    return this.#api.call("cancelBuild", { path: { build: id } }, savingTimeoutMs(options));
  }

  /** The lines that a build's log has now; further pages are fetched as they are reached. */
  async *logs(id: string, options: BuildLogOptions = {}): AsyncGenerator<BuildLogLine, void, void> {
    let offset: number | undefined;
    do {
      const query = {
        level: options.level,
        direction: options.direction,
        limit: String(logPageSize),
        offset: offset === undefined ? undefined : String(offset),
      };
      const page = await this.#api.call("getBuildLogs", { path: { build: id }, query }, options);
      yield* page.lines;
      offset = page.next_offset ?? undefined;
    } while (offset !== undefined);
  }

  /**
   * A build as it goes, until it has ended, however it does. A connection that breaks is opened again and goes on behind the last line, also while the platform restarts: builds survive that.
   */
  async *follow(id: string, options: FollowOptions = {}): AsyncGenerator<BuildEvent, void, void> {
    let offset = options.offset ?? 0;
    let delayMs = retryMsMin;
    let lastSignOfLife = performance.now();
    for (;;) {
      try {
        for await (const event of this.#events(id, offset, options)) {
          delayMs = retryMsMin;
          lastSignOfLife = performance.now();
          if (event.type === "line") offset = event.line.number + 1;
          yield event;
          if (event.type === "end") return;
        }
        throw new RoostError("connection_lost", "the connection ended before the build did");
      } catch (error) {
        options.signal?.throwIfAborted();
        const mayReturn = error instanceof RoostError && error.retryable && performance.now() - lastSignOfLife < awayMsMax;
        if (!mayReturn) throw error;
      }
      await sleep(delayMs, undefined, { signal: options.signal }).catch((error: unknown) => {
        throw options.signal?.reason ?? error;
      });
      delayMs = Math.min(2 * delayMs, retryMsMax);
    }
  }

  async *#events(id: string, offset: number, options: RequestOptions): AsyncGenerator<BuildEvent, void, void> {
    const schema = endpoints.followBuild.webSocket.server;
    const socket = await this.#api.socket("followBuild", schema, { path: { build: id }, query: { offset: String(offset) } }, options);
    try {
      for (let message = await socket.next(); message !== undefined; message = await socket.next()) {
        if (message.type === "error") throw new RoostError(message.code, message.data);
        yield message;
      }
    } finally {
      socket.close();
    }
  }
}
