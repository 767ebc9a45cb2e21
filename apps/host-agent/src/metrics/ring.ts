/** One instant of a sandbox: what its rings keep. */
export interface MetricPoint {
  readonly timeUnixSec: number;
  /** Share of the sandbox's vCPUs in use, 0 to 100 */
  readonly cpuPercent: number;
  readonly memoryBytes: number;
  /** Page cache; not part of `memoryBytes` */
  readonly cacheBytes: number;
  readonly diskBytes: number;
}

const fields = 5;

/** The newest points, in one array of numbers: a sandbox's three rings take 45 KB for as long as it lives. */
export class Ring {
  readonly #values: Float64Array;
  readonly #capacity: number;
  #count = 0;
  #next = 0;

  constructor(capacity: number) {
    this.#capacity = capacity;
    this.#values = new Float64Array(capacity * fields);
  }

  push(point: MetricPoint): void {
    const { timeUnixSec, cpuPercent, memoryBytes, cacheBytes, diskBytes } = point;
    this.#values.set([timeUnixSec, cpuPercent, memoryBytes, cacheBytes, diskBytes], this.#next * fields);
    this.#next = (this.#next + 1) % this.#capacity;
    this.#count = Math.min(this.#count + 1, this.#capacity);
  }

  /** Oldest first, those at or after `sinceUnixSec`. */
  points(sinceUnixSec: number): MetricPoint[] {
    const points: MetricPoint[] = [];
    for (let position = 0; position < this.#count; position += 1) {
      const start = ((this.#next - this.#count + position + this.#capacity) % this.#capacity) * fields;
      const [timeUnixSec = 0, cpuPercent = 0, memoryBytes = 0, cacheBytes = 0, diskBytes = 0] = this.#values.subarray(
        start,
        start + fields,
      );
      if (timeUnixSec >= sinceUnixSec) points.push({ timeUnixSec, cpuPercent, memoryBytes, cacheBytes, diskBytes });
    }
    return points;
  }
}
