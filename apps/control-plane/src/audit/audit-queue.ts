import { second, type Logger } from "@roost/kit";

import type { Caller } from "../accounts/caller.ts";
import type { Db } from "../db/database.ts";
import type { Audit, AuditEntry, PendingEntry } from "./audit.ts";

/** Entries of one transaction: a burst of requests costs a few commits, and never more than one connection */
const batchMax = 200;
/** Entries that wait for the database at most; what comes then goes to the control plane's log alone */
const waitingMax = 20_000;
/** Time between two tries of what could not be stored, in `ms` */
const retryMs = 1 * second;
/** Tries at the end, before what is left goes to the log */
const lastTriesMax = 3;

/**
 * Entries that are written after the answer: of what was refused or failed, and of acts that are no transaction of ours. They are kept in
 * order; what cannot be stored is written to the log in full, so that it is in one place at least.
 */
export class AuditQueue {
  readonly #audit: Audit;
  readonly #db: Db;
  readonly #log: Logger;
  readonly #waiting: PendingEntry[] = [];
  #writing: Promise<void> | undefined;
  #isClosing = false;
  #wake: () => void = () => {};

  constructor(audit: Audit, db: Db, log: Logger) {
    this.#audit = audit;
    this.#db = db;
    this.#log = log.child({ service: "audit" });
  }

  get waitingCount(): number {
    return this.#waiting.length;
  }

  add(caller: Caller, entry: AuditEntry): void {
    const pending = this.#audit.pending(caller, entry);
    if (this.#waiting.length >= waitingMax) {
      this.#log.error({ entry: pending }, "an audit entry could not be stored: too many wait for the database");
      return;
    }
    this.#waiting.push(pending);
    this.#writing ??= this.#write().finally(() => {
      this.#writing = undefined;
    });
  }

  /** Once everything that was added so far is stored, or has gone to the log. */
  async flush(): Promise<void> {
    await this.#writing;
  }

  /** Tries a few more times, then writes what is left to the log. */
  async close(): Promise<void> {
    this.#isClosing = true;
    this.#wake();
    await this.flush();
  }

  async #write(): Promise<void> {
    let failures = 0;
    while (this.#waiting.length > 0) {
      const batch = this.#waiting.slice(0, batchMax);
      try {
        await this.#audit.append(this.#db, batch);
        this.#waiting.splice(0, batch.length);
        failures = 0;
      } catch (error) {
        failures += 1;
        this.#log[failures === 1 ? "info" : "warn"]({ err: error, waiting: this.#waiting.length }, "audit entries cannot be stored now");
        if (this.#isClosing && failures >= lastTriesMax) return this.#giveUp();
        await this.#pause();
      }
    }
  }

  #giveUp(): void {
    for (const entry of this.#waiting.splice(0)) this.#log.error({ entry }, "an audit entry could not be stored");
  }

  async #pause(): Promise<void> {
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, this.#isClosing ? retryMs / 10 : retryMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
