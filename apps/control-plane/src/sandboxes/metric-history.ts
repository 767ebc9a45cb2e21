import type { Hosts } from "../hosts/hosts.ts";
import { callTimeoutMs } from "../hosts/host-link.ts";
import type { SandboxRow } from "../db/sandboxes.ts";

/** What a sandbox used at an instant. */
export interface MetricSample {
  readonly timeUnixSec: number;
  /** Share of its vCPUs, 0 to 100 */
  readonly cpuPercent: number;
  readonly memoryBytes: number;
  /** Page cache; not part of `memoryBytes` */
  readonly cacheBytes: number;
  readonly memoryTotalBytes: number;
  readonly diskBytes: number;
  readonly diskTotalBytes: number;
}

/**
 * Everything its host knows of what a sandbox used, oldest first; also of one that is paused. `isFresh`: its guest is asked for its newest memory
 * and disk first.
 */
export async function readMetrics(hosts: Hosts, row: SandboxRow, { isFresh }: { readonly isFresh: boolean }): Promise<MetricSample[]> {
  const host = hosts.get(row.host_id);
  const request = { sandboxId: row.id, range: "all", asKnown: !isFresh };
  const answer = await host.call(() => host.client.getMetrics(request, { timeoutMs: callTimeoutMs }));
  const [memoryTotalBytes, diskTotalBytes] = [Number(answer.memoryTotalBytes), Number(answer.diskTotalBytes)];
  return answer.points.map((point) => ({
    timeUnixSec: Number(point.timeUnixSec),
    cpuPercent: point.cpuPercent,
    memoryBytes: Number(point.memoryBytes),
    cacheBytes: Number(point.memoryCacheBytes),
    memoryTotalBytes,
    diskBytes: Number(point.diskBytes),
    diskTotalBytes,
  }));
}

/**
 * The first sample of each step. Not the last: a reader who asks again for what came after a sample must not be told another one of the same
 * step.
 */
export function firstOfEachStep(samples: readonly MetricSample[], stepSec: number): MetricSample[] {
  const stepOf = (sample: MetricSample | undefined) => (sample === undefined ? undefined : Math.floor(sample.timeUnixSec / stepSec));
  return samples.filter((sample, index) => stepOf(sample) !== stepOf(samples[index - 1]));
}
