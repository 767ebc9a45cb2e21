import { buildLogLinesMax, type BuildLogLevel } from "@roost/contract";
import type { Logger } from "@roost/kit";

import type { Db } from "../../db/database.ts";
import { appendBuildLog, type BuildLogLine } from "../build-store.ts";

/** Longest that a line waits for others in `ms` before it is written */
const flushMs = 200;
/** Lines that may wait to be written; above it whoever has more waits, too */
const waitingLinesMax = 1_000;

export interface BuildLogParts {
  readonly db: Db;
  readonly buildId: string;
  readonly log: Logger;
  /** Lines were written */
  readonly onWritten?: (buildId: string) => void;
}

/** Writes a build's log, some lines at once. */
export class BuildLog {
  readonly #parts: BuildLogParts;
  #waiting: BuildLogLine[] = [];
  #count = 0;
  #writing: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor(parts: BuildLogParts) {
    this.#parts = parts;
  }

  /** Resolves at once while there is room. Lines that the log would not keep anyway are dropped here. */
  async add(level: BuildLogLevel, step: string | null, message: string): Promise<void> {
    this.#count += 1;
    if (this.#isClosed || this.#count > buildLogLinesMax + 1) return;
    this.#waiting.push({ time: new Date(), level, step, message });
    if (this.#waiting.length >= waitingLinesMax) return this.flush();
    this.#timer ??= setTimeout(() => void this.flush(), flushMs);
  }

  /** Resolves when all lines until now are written, or could not be. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    while (this.#writing !== undefined) await this.#writing;
    if (this.#waiting.length === 0) return;
    const lines = this.#waiting;
    this.#waiting = [];
    this.#writing = this.#write(lines).finally(() => (this.#writing = undefined));
    await this.#writing;
  }

  /** Writes what waits. What comes later is dropped: a build's last line is its last one. */
  async close(): Promise<void> {
    await this.flush();
    this.#isClosed = true;
  }

  async #write(lines: readonly BuildLogLine[]): Promise<void> {
    const { db, buildId, log, onWritten } = this.#parts;
    try {
      await appendBuildLog(db, buildId, lines);
      onWritten?.(buildId);
    } catch (error) {
      log.warn({ err: error, lines: lines.length }, "lines of a build's log could not be written");
    }
  }
}
