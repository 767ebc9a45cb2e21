import { second } from "@roost/kit";
import { Gauge, type Registry } from "prom-client";

import type { PlatformCount } from "../db/platform-counts.ts";

/** What a scrape asks the database and the process for. */
export interface PlatformSources {
  readonly counts: () => Promise<readonly PlatformCount[]>;
  /** Of a PostgreSQL server; undefined: the database is embedded */
  readonly databaseConnections: () => { readonly open: number; readonly idle: number; readonly waiting: number } | undefined;
  /** In ms; undefined: the database is embedded */
  readonly clockAheadMs: () => Promise<number | undefined>;
  readonly auditEntriesWaiting: () => number;
}

/** Every state there is, so that one without members is told as 0 and not left out. */
const statesOf = {
  operation: ["running", "failed"],
  delivery: ["pending", "failed"],
  build: ["waiting", "building"],
  host: ["pending", "ready", "cordoned", "draining", "unreachable"],
} as const satisfies Record<PlatformCount["of"], readonly string[]>;

const gauges = {
  operation: { name: "roost_operations", help: "Operations that run, and that failed in the last hour" },
  delivery: {
    name: "roost_deliveries",
    help: "Deliveries to channels that wait for a (further) try, and that were given up in the last hour",
  },
  build: { name: "roost_builds", help: "Builds of templates that are not over" },
  host: { name: "roost_hosts", help: "Hosts by state; whose lease has ended is unreachable, whatever was wanted of it" },
} as const satisfies Record<PlatformCount["of"], { readonly name: string; readonly help: string }>;

/**
 * What a scrape asks the database for; undefined when it does not answer. Then the gauge is left out, rather than told as what it was or as 0, and all the others are
 * told: when the database is away is when they are looked at.
 */
export async function unlessFailed<Answer>(ask: () => Promise<Answer>): Promise<Answer | undefined> {
  return ask().catch(() => undefined);
}

/** Gauges of the whole platform: each replica tells the same, from the database. */
export function addPlatformGauges(registry: Registry, sources: PlatformSources): void {
  const registers = [registry];
  // Gauges are collected at the same time: one question answers all of them
  let asking: Promise<readonly PlatformCount[]> | undefined;
  const ask = async () => {
    asking ??= sources.counts().finally(() => (asking = undefined));
    return asking;
  };
  for (const of of Object.keys(statesOf) as PlatformCount["of"][]) {
    const gauge: Gauge<"state"> = new Gauge({
      ...gauges[of],
      labelNames: ["state"],
      registers,
      async collect() {
        const counts = await unlessFailed(ask);
        this.reset();
        for (const state of counts === undefined ? [] : statesOf[of])
          this.set({ state }, counts?.find((each) => each.of === of && each.state === state)?.count ?? 0);
      },
    });
    void gauge;
  }
  const connections: Gauge<"state"> = new Gauge({
    name: "roost_database_connections",
    help: "Connections to the PostgreSQL server, and requests that wait for one",
    labelNames: ["state"],
    registers,
    collect() {
      for (const [state, count] of Object.entries(sources.databaseConnections() ?? {})) this.set({ state }, count);
    },
  });
  const waiting: Gauge = new Gauge({
    name: "roost_audit_entries_waiting",
    help: "Entries of the audit log that are not stored yet",
    registers,
    collect() {
      this.set(sources.auditEntriesWaiting());
    },
  });
  const clock: Gauge = new Gauge({
    name: "roost_database_clock_difference_seconds",
    help: "How far the clock of this control plane is ahead of the PostgreSQL server's",
    registers,
    async collect() {
      const aheadMs = await unlessFailed(sources.clockAheadMs);
      this.reset();
      if (aheadMs !== undefined) this.set(aheadMs / second);
    },
  });
  void connections;
  void clock;
  void waiting;
}
