import { followGuestLog, type GuestLogCursor, type LogEntry } from "@roost/contract";
import { sleep, type Logger } from "@roost/kit";

import type { GuestClient } from "../guest/guest-client.ts";
import { GuestLines } from "./guest-lines.ts";
import type { SandboxLog } from "./sandbox-log.ts";

/** Pages asked for in one go: more than a guest keeps, so it only ends one that says there is always more. */
const pagesMax = 8;
/** Time in `ms` that a pause without memory or an end of a sandbox waits for the last of its log. */
const finishTimeoutMs = 300;

export interface GuestLogCollectorOptions {
  readonly client: Pick<GuestClient, "logs">;
  readonly target: SandboxLog;
  /** Aborts when the VM ends */
  readonly signal: AbortSignal;
  readonly log: Logger;
}

/** Brings what the guest of one VM logs into the log of its sandbox. The guest is hostile, and a log is a courtesy: no failure here is anybody else's. */
export class GuestLogCollector {
  readonly #options: GuestLogCollectorOptions;
  readonly #lines = new GuestLines();
  /** Entries of the platform's that wait for the guest's before them */
  readonly #told: LogEntry[] = [];
  #cursor: GuestLogCursor | undefined;
  #isCursorKnown = false;
  #underWay: Promise<void> | undefined;
  /** Begins when the one under way has ended */
  #next: Promise<void> | undefined;

  constructor(options: GuestLogCollectorOptions) {
    this.#options = options;
  }

  /** Resolves when everything that the guest had logged by now is in the sandbox's log, or after `timeoutMs`; never rejects. */
  async collect(timeoutMs: number): Promise<void> {
    const given = new AbortController();
    await Promise.race([this.#fresh(), sleep(timeoutMs, given.signal).catch(() => undefined)]);
    given.abort();
  }

  /** Puts in an entry of the platform's where it belongs by its instant; behind all that is known by then if the guest does not answer. */
  async tell(entry: LogEntry): Promise<void> {
    this.#told.push(entry);
    await this.collect(finishTimeoutMs);
    if (this.#told.length > 0) await this.#options.target.append(this.#told.splice(0));
  }

  /** As `collect`, before the guest's memory is gone: lines whose end has not come are written as they are. */
  async finish(): Promise<void> {
    await this.collect(finishTimeoutMs);
    await this.#writeRest();
  }

  /** Nothing comes from this VM any more. */
  end(): void {
    void this.#writeRest();
  }

  /** Whether the guest has something that was not collected, by the mark it gave. */
  isBehind(mark: string): boolean {
    return mark !== `${this.#cursor?.epochs.at(-1)?.id ?? ""} ${this.#cursor?.newest ?? 0}`;
  }

  /** One that began after this call. */
  async #fresh(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    if (this.#underWay === undefined) return this.#begin();
    this.#next = this.#underWay.then(() => {
      this.#next = undefined;
      return this.#begin();
    });
    return this.#next;
  }

  #begin(): Promise<void> {
    const { log } = this.#options;
    this.#underWay = this.#collect()
      .catch((error: unknown) => log.debug({ err: error }, "a guest's log could not be collected"))
      .finally(() => {
        this.#underWay = undefined;
      });
    return this.#underWay;
  }

  async #collect(): Promise<void> {
    const { client, target, signal } = this.#options;
    if (signal.aborted) return;
    if (!this.#isCursorKnown) this.#cursor = await target.cursor();
    this.#isCursorKnown = true;
    for (let pages = 1; ; pages += 1) {
      const page = await client.logs(this.#cursor, signal);
      const { cursor, fresh, dropped } = followGuestLog(this.#cursor, page);
      const isLast = pages === pagesMax || page.records.length === 0 || cursor.newest >= page.newest;
      const entries = this.#lines.collect(fresh, dropped, Date.now(), { isLast });
      if (isLast) mergeByTime(entries, this.#told.splice(0));
      const isNews = entries.length > 0 || fresh.length > 0 || cursor.epochs.length !== this.#cursor?.epochs.length;
      if (isNews) await target.append(entries, cursor);
      this.#cursor = cursor;
      if (isLast) return;
    }
  }

  async #writeRest(): Promise<void> {
    const entries = this.#lines.finish(Date.now());
    mergeByTime(entries, this.#told.splice(0));
    if (entries.length === 0) return;
    const { target, log } = this.#options;
    await target.append(entries).catch((error: unknown) => log.debug({ err: error }, "the end of a guest's log could not be written"));
  }
}

/** Puts each of `others` before the first entry that is later. */
function mergeByTime(entries: LogEntry[], others: readonly LogEntry[]): void {
  for (const other of others) {
    const place = entries.findIndex(({ timeMs }) => timeMs > other.timeMs);
    entries.splice(place < 0 ? entries.length : place, 0, other);
  }
}
