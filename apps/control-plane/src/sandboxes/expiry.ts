import { randomUUID } from "node:crypto";

import { PlatformError, type EventKind } from "@roost/contract";
import { minute, second, ServiceLoop, Turns, withDeadline, type Logger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { NewEvent } from "../db/events.ts";
import { claimExpired, listToPause, nextExpiry, postponeExpiry } from "../db/expiry.ts";
import { findSandbox, type SandboxRow } from "../db/sandboxes.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { Lifecycle } from "./lifecycle.ts";
import type { SandboxRecords } from "./records.ts";

/** Longest time between two looks in `ms`, for ends that another control plane recorded and did not live to see */
const lookIntervalMs = 5 * second;
/** Sandboxes taken up in one look; what is more is in the next, at once */
const batchSize = 256;
/**
 * Deletes, and pauses, by expiry under way at once: a host does not do more at a time in a useful way. Apart, because a pause may take a minute, and
 * who is to be deleted must not live on for that.
 */
const concurrencyMax = 16;
/** First wait after a pause that failed in `ms`; doubles with each further one, up to the longest */
const retryMsMin = 1 * second;
const retryMsMax = 15 * minute;
/** Time that a shutdown leaves in `ms` for what is being carried out; the rest is taken up at the next start */
const settleTimeoutMs = 5 * second;
/** What a sandbox's log says */
const reason = "its time was up";

export interface ExpiryDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly lifecycle: Lifecycle;
  readonly hosts: Hosts;
  readonly log: Logger;
  readonly onEvent: (event: NewEvent) => Promise<void>;
}

/**
 * Ends or pauses each sandbox when its time is up. For readers it is over at that very moment (see ./present.ts); this carries it out.
 *
 * One loop sleeps until the earliest end, is poked when an earlier one is recorded, and looks at the table each time, so it needs no
 * state: a restart or another control plane goes on from the table. An end is claimed by a guarded write; an extension that was written
 * before wins, and after it there is nothing to extend. A sandbox that is to be paused needs no claim: while its time is up nobody can
 * extend it, and pausing it twice is pausing it.
 */
export class Expiry {
  readonly #deps: ExpiryDependencies;
  readonly #log: Logger;
  /** By sandbox: what is being carried out */
  readonly #underWay = new Map<string, Promise<void>>();
  readonly #deletes = new Turns(concurrencyMax);
  readonly #pauses = new Turns(concurrencyMax);
  /** By sandbox: pauses in a row that failed */
  readonly #failures = new Map<string, number>();
  #loop: ServiceLoop | undefined;
  #isClosing = false;
  /** When the loop looks again, as it is planned; `ms` since 1970 */
  #nextLook = 0;

  constructor(deps: ExpiryDependencies) {
    this.#deps = deps;
    this.#log = deps.log;
  }

  /** A sandbox does not run any more: how often it could not be paused has no meaning now. */
  savedOrEnded(sandboxId: string): void {
    this.#failures.delete(sandboxId);
  }

  /** There is a new end. Makes the loop look earlier, if that is needed. */
  poke(end: Date): void {
    if (end.getTime() < this.#nextLook) this.#loop?.poke();
  }

  /** Until `signal` aborts. */
  async run(signal: AbortSignal): Promise<void> {
    const loop = new ServiceLoop("expiry", this.#log, signal);
    this.#loop = loop;
    while (loop.shouldRun()) {
      try {
        this.#nextLook = Number.POSITIVE_INFINITY; // an end that is recorded during the look pokes
        const waitMs = await this.look();
        loop.resetBackoff();
        await loop.sleep(waitMs);
      } catch (error) {
        await loop.backoff(error);
      }
    }
    this.#isClosing = true;
    await withDeadline("the end of expiries under way", settleTimeoutMs, this.settled()).catch((error: unknown) =>
      this.#log.info({ err: error }, "expiries are left for the next start"),
    );
  }

  /** Takes up what is due; answers for how many `ms` nothing more will be. */
  async look(): Promise<number> {
    const { records, database } = this.#deps;
    const { db } = database;
    const now = records.now();
    const expired = await claimExpired(db, now, batchSize);
    for (const row of expired) {
      records.endConnections(row.id);
      records.changedHere(row.id);
      this.#begin(row.id, this.#deletes, () => this.#delete(row));
    }
    const toPause = (await listToPause(db, now, batchSize + this.#underWay.size)).filter((row) => !this.#underWay.has(row.id));
    for (const row of toPause) this.#begin(row.id, this.#pauses, () => this.#pause(row));
    const isMore = expired.length >= batchSize;
    const next = isMore ? now : await nextExpiry(db, now);
    const waitMs = next === undefined ? lookIntervalMs : Math.min(next.getTime() - now.getTime(), lookIntervalMs);
    this.#nextLook = now.getTime() + waitMs;
    return waitMs;
  }

  /** When everything that was taken up is done. */
  async settled(): Promise<void> {
    while (this.#underWay.size > 0) await Promise.all(this.#underWay.values());
  }

  #begin(id: string, turns: Turns, act: () => Promise<void>): void {
    const done = turns
      .take(async () => {
        if (!this.#isClosing) await act();
      })
      .catch((error: unknown) => this.#log.warn({ err: error, sandboxId: id }, "could not carry out an expiry"))
      .finally(() => this.#underWay.delete(id));
    this.#underWay.set(id, done);
  }

  /** It is gone for everybody already. What the host cannot be told now the reconciler tells it. */
  async #delete(row: SandboxRow): Promise<void> {
    await this.#tell(row, "sandbox.expired", `its time was up at ${row.time_expires?.toISOString() ?? "?"}: it is deleted`, {
      action: "delete",
    });
    await this.#deps.records.endOnHost(row.id, this.#deps.hosts.get(row.host_id), reason);
  }

  async #pause(due: SandboxRow): Promise<void> {
    const { records, database, lifecycle } = this.#deps;
    const row = await findSandbox(database.db, due);
    if (row === undefined || !isToPause(row, records.now())) return;
    try {
      await lifecycle.pauseRunning(row, { memory: row.expiry_memory, reason });
      this.#failures.delete(row.id);
      await this.#tell(row, "sandbox.expired", `its time was up at ${row.time_expires.toISOString()}: it was paused`, { action: "pause" });
    } catch (error) {
      await this.#postpone(row, error);
    }
  }

  /** The sandbox runs on, and is tried again later. Whoever extends it meanwhile is not disturbed. */
  async #postpone(row: SandboxRow, error: unknown): Promise<void> {
    const { records, database } = this.#deps;
    const failures = (this.#failures.get(row.id) ?? 0) + 1;
    const retryAt = new Date(records.now().getTime() + Math.min(retryMsMin * 2 ** (failures - 1), retryMsMax));
    const postponed = await postponeExpiry(database.db, row, retryAt);
    if (postponed === undefined) {
      this.#failures.delete(row.id);
      return; // it is not running any more, or its end has changed
    }
    this.#failures.set(row.id, failures);
    records.written(postponed);
    this.#log.warn({ err: error, sandboxId: row.id, failures, retryAt }, "a sandbox whose time is up could not be paused");
    if (error instanceof PlatformError && error.code === "host_unreachable") return; // nothing of the sandbox's
    const message = `its time is up, but pausing failed and is tried again at ${retryAt.toISOString()}: ${error instanceof Error ? error.message : String(error)}`;
    await this.#tell(row, "sandbox.pause_failed", message, { retry_at: retryAt.toISOString() });
  }

  async #tell(row: SandboxRow, kind: EventKind, message: string, detail: Readonly<Record<string, string>>): Promise<void> {
    const time = this.#deps.records.now();
    try {
      await this.#deps.onEvent({ id: randomUUID(), hostId: row.host_id, time, kind, sandboxId: row.id, template: null, message, detail });
    } catch (error) {
      this.#log.warn({ err: error, sandboxId: row.id, event: kind }, "an event is lost");
    }
  }
}

function isToPause(row: SandboxRow, now: Date): row is SandboxRow & { readonly time_expires: Date } {
  const isRunning = (row.state === "running" || row.state === "snapshotting") && row.time_delete_requested === null;
  return isRunning && row.time_expires !== null && row.time_expires <= now && row.expiry_action === "pause";
}
