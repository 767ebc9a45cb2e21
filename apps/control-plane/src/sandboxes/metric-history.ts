import { metricsRanges, PlatformError, type MetricsRange, type SandboxState } from "@roost/contract";

import type { SandboxRow } from "../db/sandboxes.ts";
import { callTimeoutMs } from "../hosts/host-link.ts";
import type { Hosts } from "../hosts/hosts.ts";

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

/** Longest range in `s` that hosts know; of longer ones they give what they have. */
const hostRangeSecMax = metricsRanges["24h"];

/** In these its host has nothing of a sandbox any more, or nothing to measure. */
const isGone: ReadonlySet<SandboxState> = new Set(["stopped", "failed"]);

/** What is stored of a sandbox over the last so many s, oldest first. */
export type StoredMetrics = (sandboxId: string, rangeSec: number) => Promise<MetricSample[]>;

/** What a sandbox used over a range: what its host knows, and what is stored from before; of one that is gone or out of reach, that alone. */
export async function metricsOver(hosts: Hosts, stored: StoredMetrics, row: SandboxRow, range: MetricsRange): Promise<MetricSample[]> {
  const rangeSec = metricsRanges[range];
  const known = isGone.has(row.state)
    ? []
    : await samplesOfHost(hosts, row, rangeSec > hostRangeSecMax ? "24h" : range, false).catch((error: unknown) => {
        if (error instanceof PlatformError && (error.code === "host_unreachable" || error.code === "sandbox_not_found")) return [];
        throw error;
      });
  const [first] = known;
  const before = await stored(row.id, rangeSec);
  return [...before.filter(({ timeUnixSec }) => first === undefined || timeUnixSec < first.timeUnixSec), ...known];
}

/**
 * Everything its host knows of what a sandbox used, oldest first; also of one that is paused. `isFresh`: its guest is asked for its newest memory
 * and disk first.
 */
export async function readMetrics(hosts: Hosts, row: SandboxRow, { isFresh }: { readonly isFresh: boolean }): Promise<MetricSample[]> {
  return samplesOfHost(hosts, row, "all", !isFresh);
}

async function samplesOfHost(hosts: Hosts, row: SandboxRow, range: MetricsRange | "all", asKnown: boolean): Promise<MetricSample[]> {
  const host = hosts.get(row.host_id);
  const answer = await host.call(() => host.client.getMetrics({ sandboxId: row.id, range, asKnown }, { timeoutMs: callTimeoutMs }));
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
