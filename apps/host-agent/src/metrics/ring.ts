/** One instant of a sandbox: what its rings keep. */
export interface MetricPoint {
  readonly timeUnixSec: number;
  /** Share of the sandbox's vCPUs in use, 0 to 100 */
  readonly cpuPercent: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
}

const fields = 4;

/** The newest points, in one array of numbers: a sandbox's three rings take 36 KB for as long as it lives. */
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
    this.#values.set([point.timeUnixSec, point.cpuPercent, point.memoryBytes, point.diskBytes], this.#next * fields);
    this.#next = (this.#next + 1) % this.#capacity;
    this.#count = Math.min(this.#count + 1, this.#capacity);
  }

  /** Oldest first, those at or after `sinceUnixSec`. */
  points(sinceUnixSec: number): MetricPoint[] {
    const points: MetricPoint[] = [];
    for (let position = 0; position < this.#count; position += 1) {
      const start = ((this.#next - this.#count + position + this.#capacity) % this.#capacity) * fields;
      const [timeUnixSec = 0, cpuPercent = 0, memoryBytes = 0, diskBytes = 0] = this.#values.subarray(start, start + fields);
      if (timeUnixSec >= sinceUnixSec) points.push({ timeUnixSec, cpuPercent, memoryBytes, diskBytes });
    }
    return points;
  }
}
