import { metricsRanges, type GuestMetrics, type MetricsRange } from "@roost/contract";

import { Ring, type MetricPoint } from "./ring.ts";

/** Three tiers as the reference platform keeps them: 1 s for 10 min, 30 s for 2 h, 5 min for 24 h. Coarser points are averages. */
const fineCount = 600;
const middleCount = 240;
const coarseCount = 288;
const finePerMiddle = 30;
const middlePerCoarse = 10;

/** Ranges up to this many `s` come from the finest tier that covers them. */
const fineRangeSec = 600;
const middleRangeSec = 7_200;

/** What one sandbox used over time. Kept in memory: it begins anew when the host agent restarts. */
export class SandboxMetrics {
  readonly #fine = new Ring(fineCount);
  readonly #middle = new Ring(middleCount);
  readonly #coarse = new Ring(coarseCount);
  #finePending: MetricPoint[] = [];
  #middlePending: MetricPoint[] = [];
  #guest: GuestMetrics | undefined;

  /** What the guest said last about itself; between two answers the points repeat it. */
  get guest(): GuestMetrics | undefined {
    return this.#guest;
  }

  setGuest(guest: GuestMetrics): void {
    this.#guest = guest;
  }

  /** History begins with the guest's first answer, a second or two after its start: before it, memory and disk would be made up. */
  push(timeUnixSec: number, cpuPercent: number): void {
    if (this.#guest === undefined) return;
    const { mem_used: memoryBytes, mem_cache: cacheBytes, disk_used: diskBytes } = this.#guest;
    const point = { timeUnixSec, cpuPercent, memoryBytes, cacheBytes, diskBytes };
    this.#fine.push(point);
    this.#finePending.push(point);
    if (this.#finePending.length < finePerMiddle) return;
    const middle = average(this.#finePending);
    this.#finePending = [];
    this.#middle.push(middle);
    this.#middlePending.push(middle);
    if (this.#middlePending.length < middlePerCoarse) return;
    this.#coarse.push(average(this.#middlePending));
    this.#middlePending = [];
  }

  points(range: MetricsRange, nowUnixSec: number): MetricPoint[] {
    const rangeSec = metricsRanges[range];
    const ring = rangeSec <= fineRangeSec ? this.#fine : rangeSec <= middleRangeSec ? this.#middle : this.#coarse;
    return ring.points(nowUnixSec - rangeSec);
  }

  /** All there is: each instant from the finest tier that has it. */
  allPoints(): MetricPoint[] {
    const fine = this.#fine.points(0);
    const middle = before(this.#middle.points(0), fine);
    return [...before(this.#coarse.points(0), middle.length > 0 ? middle : fine), ...middle, ...fine];
  }
}

/** The points older than the oldest of the others. */
function before(points: readonly MetricPoint[], others: readonly MetricPoint[]): MetricPoint[] {
  const [oldest] = others;
  return oldest === undefined ? [...points] : points.filter((point) => point.timeUnixSec < oldest.timeUnixSec);
}

/** Stands at the last point's instant. */
function average(points: readonly MetricPoint[]): MetricPoint {
  const mean = (of: (point: MetricPoint) => number) => points.reduce((sum, point) => sum + of(point), 0) / points.length;
  return {
    timeUnixSec: points.at(-1)?.timeUnixSec ?? 0,
    cpuPercent: mean((point) => point.cpuPercent),
    memoryBytes: Math.round(mean((point) => point.memoryBytes)),
    cacheBytes: Math.round(mean((point) => point.cacheBytes)),
    diskBytes: Math.round(mean((point) => point.diskBytes)),
  };
}
