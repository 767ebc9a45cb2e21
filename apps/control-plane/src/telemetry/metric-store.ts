import { hour, minute, second, ServiceLoop, withDeadline, type Logger } from "@roost/kit";

import type { Db } from "../db/database.ts";
import {
  claimDueMetrics,
  findMetricMark,
  forgetMetricMarks,
  forgetMetrics,
  listMetrics,
  storeMetrics,
  type CollectedMetrics,
  type DueSandbox,
  type MetricStepSec,
} from "../db/metrics.ts";
import type { HostLink } from "../hosts/host-link.ts";
import type { MetricSample } from "../sandboxes/metric-history.ts";

/** Three tiers: 10 s for an hour, 1 min for a day, 10 min for 30 days. Each step is the average of what it covers. */
const tiers: readonly { readonly stepSec: MetricStepSec; readonly keptMs: number }[] = [
  { stepSec: 10, keptMs: 1 * hour },
  { stepSec: 60, keptMs: 24 * hour },
  { stepSec: 600, keptMs: 30 * 24 * hour },
];

/** A running sandbox is collected when it was stored last this long ago, in `ms`: hosts keep ten minutes in steps of 1 s */
const dueMs = 5 * minute;
/** Older than this in `ms`, the host is asked for its coarser steps, too */
const fineMs = 9 * minute;
/** Time between two rounds in `ms` */
const intervalMs = 30 * second;
/** Longest that a replica has for what it took, in `ms` */
const claimMs = 1 * minute;
/** Sandboxes taken at once, and how many are asked for at the same time */
const batchMax = 200;
const concurrency = 8;
/** Time a host has for the metrics of one sandbox in `ms` */
const askTimeoutMs = 5 * second;
/** Time that the end of a sandbox waits for its last metrics in `ms`: they are worth no more */
const lastTimeoutMs = 500;
/** Pauses and ends come in bursts: what they leave is stored together, after so many `ms` */
const pokeDelayMs = 2 * second;
const flushDelayMs = 1 * second;
/** Sandboxes that ended and whose metrics wait for it; of more than this within a second they are lost */
const lastMax = 2_000;
/** Time between two removals of what is old, in `ms` */
const forgetIntervalMs = 10 * minute;

export interface MetricStoreDependencies {
  readonly db: Db;
  readonly hosts: () => readonly HostLink[];
  readonly log: Logger;
  readonly now?: () => Date;
}

/** What sandboxes used over time, in the database: hosts keep a day of it in memory, and nothing of sandboxes that are gone. */
export class MetricStore {
  readonly #deps: MetricStoreDependencies;
  #loop: ServiceLoop | undefined;
  #forgotMs = Number.NEGATIVE_INFINITY;
  #pokeTimer: NodeJS.Timeout | undefined;
  /** Of sandboxes that ended, not stored yet */
  readonly #last: CollectedMetrics[] = [];
  #flushTimer: NodeJS.Timeout | undefined;

  constructor(deps: MetricStoreDependencies) {
    this.#deps = deps;
  }

  async run(signal: AbortSignal): Promise<void> {
    this.#loop = new ServiceLoop("metric store", this.#deps.log, signal);
    await this.#loop.every(intervalMs, () => this.round());
  }

  /** A sandbox was paused: its metrics are due, together with those of others that are about to be. */
  poke(): void {
    if (this.#pokeTimer !== undefined) return;
    this.#pokeTimer = setTimeout(() => {
      this.#pokeTimer = undefined;
      this.#loop?.poke();
    }, pokeDelayMs).unref();
  }

  /** Collects what is due from the hosts that can be reached from here, and forgets what is old. */
  async round(): Promise<void> {
    const now = this.#now();
    const links = new Map(
      this.#deps
        .hosts()
        .filter((link) => link.isWatching)
        .map((link) => [link.id, link]),
    );
    for (let count = batchMax; count === batchMax;) {
      const due = await claimDueMetrics(this.#deps.db, {
        hostIds: [...links.keys()],
        before: new Date(now.getTime() - dueMs),
        now,
        claimEnds: new Date(now.getTime() + claimMs),
        limit: batchMax,
      });
      count = due.length;
      await this.#collect(due, links);
    }
    if (performance.now() - this.#forgotMs < forgetIntervalMs) return;
    this.#forgotMs = performance.now();
    await this.#forget(now);
  }

  /**
   * Before a sandbox ends: what its host knows of it is gone with it. Never fails, and never takes long: storing it is not waited for. Ten minutes
   * are enough, as those that ran longer were collected within the last five.
   */
  async collectLast(sandboxId: string, host: HostLink): Promise<void> {
    const now = this.#now().getTime();
    const due = { id: sandboxId, hostId: host.id, state: "stopped", timeStored: new Date(now - fineMs) };
    try {
      const last = await withDeadline("the last metrics of a sandbox", lastTimeoutMs, this.#ask(due, host, lastTimeoutMs));
      if (last === undefined || last.rows.length === 0 || this.#last.length >= lastMax) return;
      this.#last.push(last);
      this.#flushTimer ??= setTimeout(() => void this.flush(), flushDelayMs).unref();
    } catch (error) {
      this.#deps.log.debug({ err: error, sandboxId }, "the last metrics of a sandbox are lost");
    }
  }

  /** Stores what was collected of sandboxes that ended. */
  async flush(): Promise<void> {
    clearTimeout(this.#flushTimer);
    this.#flushTimer = undefined;
    const last = this.#last.splice(0);
    if (last.length === 0) return;
    await storeMetrics(this.#deps.db, last).catch((error: unknown) =>
      this.#deps.log.warn({ err: error, count: last.length }, "the last metrics of sandboxes are lost"),
    );
  }

  /** What is stored of a sandbox over the last `rangeSec`, oldest first, in the finest steps that cover it. */
  async read(sandboxId: string, rangeSec: number): Promise<MetricSample[]> {
    await this.flush();
    const mark = await findMetricMark(this.#deps.db, sandboxId);
    const tier = tiers.find(({ keptMs }) => keptMs >= rangeSec * second) ?? tiers.at(-1);
    if (mark === undefined || tier === undefined) return [];
    const since = new Date(this.#now().getTime() - rangeSec * second);
    const limit = Math.ceil(tier.keptMs / second / tier.stepSec) + 1;
    const rows = await listMetrics(this.#deps.db, sandboxId, tier.stepSec, since, limit);
    return rows.map((row) => ({
      timeUnixSec: Math.trunc(row.time_started.getTime() / second),
      cpuPercent: row.cpu_percent,
      memoryBytes: row.memory_bytes,
      cacheBytes: row.cache_bytes,
      memoryTotalBytes: mark.memory_total_bytes,
      diskBytes: row.disk_bytes,
      diskTotalBytes: mark.disk_total_bytes,
    }));
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  async #collect(due: readonly DueSandbox[], links: ReadonlyMap<string, HostLink>): Promise<void> {
    const waiting = [...due];
    const collected: CollectedMetrics[] = [];
    const work = async () => {
      for (let next = waiting.pop(); next !== undefined; next = waiting.pop()) {
        const link = links.get(next.hostId);
        const metrics = link === undefined ? undefined : await this.#ask(next, link, askTimeoutMs).catch(() => undefined); // tried again when the claim ends
        if (metrics !== undefined) collected.push(metrics);
      }
    };
    await Promise.all(Array.from({ length: concurrency }, work));
    if (collected.length > 0) await storeMetrics(this.#deps.db, collected);
  }

  async #ask(due: DueSandbox, host: HostLink, timeoutMs: number): Promise<CollectedMetrics | undefined> {
    const now = this.#now();
    const range = now.getTime() - due.timeStored.getTime() <= fineMs ? "10m" : "all";
    const request = { sandboxId: due.id, range, asKnown: true };
    const answer = await host.call(() => host.client.getMetrics(request, { timeoutMs }));
    // The step that now is in is not whole as long as the sandbox runs
    const wholeSec = due.state === "running" ? floorTo10(now.getTime() / second) : Number.POSITIVE_INFINITY;
    const sinceSec = floorTo10(due.timeStored.getTime() / second);
    const points = answer.points.map((point) => ({
      timeUnixSec: Number(point.timeUnixSec),
      cpuPercent: point.cpuPercent,
      memoryBytes: Number(point.memoryBytes),
      cacheBytes: Number(point.memoryCacheBytes),
      diskBytes: Number(point.diskBytes),
    }));
    return {
      sandboxId: due.id,
      rows: averages(points.filter(({ timeUnixSec }) => timeUnixSec >= sinceSec && timeUnixSec < wholeSec)),
      timeStored: due.state === "running" ? new Date(wholeSec * second) : now,
      memoryTotalBytes: Number(answer.memoryTotalBytes),
      diskTotalBytes: Number(answer.diskTotalBytes),
    };
  }

  async #forget(now: Date): Promise<void> {
    for (const { stepSec, keptMs } of tiers) await forgetMetrics(this.#deps.db, stepSec, new Date(now.getTime() - keptMs));
    await forgetMetricMarks(this.#deps.db, new Date(now.getTime() - hour));
  }
}

interface Point {
  readonly timeUnixSec: number;
  readonly cpuPercent: number;
  readonly memoryBytes: number;
  readonly cacheBytes: number;
  readonly diskBytes: number;
}

function floorTo10(sec: number): number {
  return Math.floor(sec / 10) * 10;
}

/** Averages of the steps of 10 s that have points. */
function averages(points: readonly Point[]): CollectedMetrics["rows"] {
  const steps = new Map<number, Point[]>();
  for (const point of points) {
    const begin = floorTo10(point.timeUnixSec);
    const step = steps.get(begin);
    if (step === undefined) steps.set(begin, [point]);
    else step.push(point);
  }
  return [...steps].map(([begin, step]) => {
    const mean = (of: (point: Point) => number) => step.reduce((sum, point) => sum + of(point), 0) / step.length;
    return {
      time_started: new Date(begin * second),
      cpu_percent: mean(({ cpuPercent }) => cpuPercent),
      memory_bytes: Math.round(mean(({ memoryBytes }) => memoryBytes)),
      cache_bytes: Math.round(mean(({ cacheBytes }) => cacheBytes)),
      disk_bytes: Math.round(mean(({ diskBytes }) => diskBytes)),
    };
  });
}
