import { PlatformError, type ExpiryAction } from "@roost/contract";
import { second } from "@roost/kit";

import type { Database } from "../db/database.ts";
import { extendExpiry, setExpiry, setExpiryOfPaused } from "../db/expiry.ts";
import type { OwnedId } from "../db/owned-id.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import type { Lifecycle } from "./lifecycle.ts";
import { presenceOf } from "./present.ts";
import type { SandboxRecords } from "./records.ts";

/** Tries of a connect whose sandbox ends or pauses just then, each time */
const triesMax = 10;
/** Longest wait in `ms` for a pause to end before a resume is told how long the sandbox has then; the resume itself waits longer, and asks the host */
const pauseTimeoutMs = 30 * second;
/** Time between two looks at a sandbox whose pause is waited for in `ms`, when nobody tells of it */
const lookIntervalMs = 250;

export interface ConnectOptions {
  /** Time from now on in `s` that the sandbox has at least */
  readonly sec: number;
  /** false: a paused one boots from its disk */
  readonly memory: boolean;
  /** For a paused one: what happens when its time is up, from now on */
  readonly action?: ExpiryAction;
}

export interface Connected {
  readonly row: SandboxRow;
  /** It was paused, and runs again */
  readonly isResumed: boolean;
}

export interface ConnectsDependencies {
  readonly database: Database;
  readonly records: SandboxRecords;
  readonly lifecycle: Lifecycle;
}

/** How long sandboxes have: given by whoever connects, or set. A sandbox that was made without an end gets one only by `setExpiry`. */
export class Connects {
  readonly #deps: ConnectsDependencies;

  constructor(deps: ConnectsDependencies) {
    this.#deps = deps;
  }

  /** A running or paused sandbox; `sandbox_not_found` for one that is neither. */
  async present(owned: OwnedId): Promise<SandboxRow> {
    const row = await this.#deps.records.get(owned);
    if (presenceOf(row) === undefined) throw new PlatformError("sandbox_not_found", `sandbox ${row.id} was not found: it has ended`);
    return row;
  }

  /**
   * A running sandbox that has `sec` from now at least: its end never moves to earlier, and not at all where it is later anyway. A
   * paused one is resumed, after a pause under way has ended, and its time counts from then.
   */
  async connect(owned: OwnedId, options: ConnectOptions): Promise<Connected> {
    const { lifecycle } = this.#deps;
    let isResumed = false;
    for (let tries = 0; tries < triesMax; tries += 1) {
      const row = await this.present(owned);
      if (presenceOf(row) === "running" && (await lifecycle.answers(row))) {
        const extended = await this.#extend(owned, options.sec);
        if (extended !== undefined) return { row: extended, isResumed };
      } else {
        await this.#setOfPaused(owned, options);
        await lifecycle.start(owned, { memory: options.memory });
        isResumed = true;
      }
    }
    throw new PlatformError("sandbox_busy", `sandbox ${owned.id} is being changed all the time; try again`);
  }

  /** Resumes a paused sandbox; `sandbox_wrong_state` when it runs. */
  async resume(owned: OwnedId, options: ConnectOptions): Promise<SandboxRow> {
    const row = await this.present(owned);
    if (presenceOf(row) === "running") throw new PlatformError("sandbox_wrong_state", `sandbox ${row.id} is running already`);
    return (await this.connect(owned, options)).row;
  }

  /** Sets the end of a running sandbox to `sec` from now, which may be earlier than before; 0: its time is up. `sandbox_not_found` for a paused one. */
  async setExpiry(owned: OwnedId, sec: number): Promise<SandboxRow> {
    const { records, database } = this.#deps;
    const row = await setExpiry(database.db, owned, sec, records.now());
    if (row === undefined) throw await this.#notRunning(owned);
    records.written(row);
    return row;
  }

  /** The same, but never to an earlier end. */
  async refresh(owned: OwnedId, sec: number): Promise<SandboxRow> {
    for (let tries = 0; tries < triesMax; tries += 1) {
      if (presenceOf(await this.present(owned)) !== "running") break;
      const row = await this.#extend(owned, sec);
      if (row !== undefined) return row;
    }
    throw await this.#notRunning(owned);
  }

  /** The running sandbox with its end at `sec` from now or later; undefined when it does not run any more. */
  async #extend(owned: OwnedId, sec: number): Promise<SandboxRow | undefined> {
    const { records, database } = this.#deps;
    const now = records.now();
    const row = await extendExpiry(database.db, owned, sec, now);
    if (row !== undefined) {
      records.written(row);
      return row;
    }
    const seen = await records.get(owned);
    const isLater = seen.time_expires === null || seen.time_expires.getTime() >= now.getTime() + sec * second;
    return presenceOf(seen) === "running" && isLater ? seen : undefined;
  }

  /**
   * Sets what a paused sandbox has from its next start on, once it is paused: one that is about to be counts as paused, too. Where that takes too
   * long it keeps what it had, and has what was asked for at least.
   */
  async #setOfPaused(owned: OwnedId, { sec, action }: ConnectOptions): Promise<void> {
    const { database, records } = this.#deps;
    const end = performance.now() + pauseTimeoutMs;
    while (!(await setExpiryOfPaused(database.db, owned, { sec, action }))) {
      const row = await records.get(owned);
      if (presenceOf(row) !== "paused" || row.expiry_sec === 0 || performance.now() > end) return;
      if (row.state === "pausing") await records.changed(row.id, lookIntervalMs); // else it is paused since
    }
  }

  /** A paused sandbox is not there for who would change its time: E2B's clients are told so. */
  async #notRunning(owned: OwnedId): Promise<PlatformError> {
    const row = await this.present(owned);
    return new PlatformError(
      "sandbox_not_found",
      `no sandbox ${row.id} runs: it is ${row.state}, and gets its time from who connects to it`,
    );
  }
}
