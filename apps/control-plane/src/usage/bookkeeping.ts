import { hour, ServiceLoop, type Logger } from "@roost/kit";

import { AuditLog } from "../audit/audit-log.ts";
import { AuditQueue } from "../audit/audit-queue.ts";
import { Audit } from "../audit/audit.ts";
import { AuditUpkeep } from "../audit/upkeep.ts";
import type { Db } from "../db/database.ts";
import { forgetIntervals } from "../db/usage.ts";
import type { HostLink } from "../hosts/host-link.ts";
import { MetricStore } from "../telemetry/metric-store.ts";
import { Usage } from "./usage.ts";

/** How long it stays known when a sandbox ran, in `ms`: three years, for bills that somebody asks about late */
const intervalsKeptMs = 3 * 365 * 24 * hour;
const forgetIntervalMs = 6 * hour;

export interface BookkeepingDependencies {
  readonly db: Db;
  readonly hosts: () => readonly HostLink[];
  readonly auditRetentionSec: number;
  readonly log: Logger;
}

/** What is written down of what happens: who did what, what was used, what was measured. */
export class Bookkeeping {
  readonly audit: Audit;
  readonly auditQueue: AuditQueue;
  readonly auditLog: AuditLog;
  readonly usage: Usage;
  readonly metricStore: MetricStore;
  readonly #deps: BookkeepingDependencies;

  constructor(deps: BookkeepingDependencies) {
    const { db, hosts, log } = deps;
    this.#deps = deps;
    this.audit = new Audit();
    this.auditQueue = new AuditQueue(this.audit, db, log);
    this.auditLog = new AuditLog(db);
    this.usage = new Usage(db);
    this.metricStore = new MetricStore({ db, hosts, log });
  }

  async run(signal: AbortSignal): Promise<void> {
    const { db, auditRetentionSec: retentionSec, log } = this.#deps;
    const forgetting = new ServiceLoop("usage retention", log, signal);
    await Promise.all([
      new AuditUpkeep({ db, audit: this.audit, retentionSec, log }).run(signal),
      this.metricStore.run(signal),
      forgetting.every(forgetIntervalMs, () => forgetIntervals(db, new Date(Date.now() - intervalsKeptMs))),
    ]);
  }

  /** Stores what waits. */
  async close(): Promise<void> {
    await this.metricStore.flush();
    await this.auditQueue.close();
  }
}
