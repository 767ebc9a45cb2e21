import { PlatformError, sandboxIdPattern } from "@roost/contract";
import type { FastifyInstance } from "fastify";
import { z } from "zod";

import { ownedBy } from "../db/owned-id.ts";
import type { Services } from "../http/services.ts";
import { firstOfEachStep, readMetrics, type MetricSample } from "../sandboxes/metric-history.ts";
import { addE2bRoute } from "./route.ts";

/** Time between two samples in `s`: E2B's, where there are as many */
const stepSec = 5;
/** Sandboxes in one request */
const idsMax = 100;
/** Hosts and sandboxes that are asked at once for it */
const concurrency = 8;

const unixSecSchema = z.coerce.number().int().min(0).max(8_640_000_000_000).optional();

const metricsQuerySchema = z
  .object({ start: unixSecSchema, end: unixSecSchema })
  .refine(({ start = 0, end = start }) => start <= end, { path: ["start"], message: "must not be after end" });

const newestQuerySchema = z.object({
  sandbox_ids: z
    .union([z.string(), z.array(z.string())])
    .transform((given) => [...new Set([given].flat().flatMap((text) => text.split(",")))].filter((id) => id !== ""))
    .pipe(z.array(z.string()).max(idsMax)),
});

/** What sandboxes used over time, and last. */
export function addE2bMetricRoutes(app: FastifyInstance, { sandboxes, hosts }: Services): void {
  addE2bRoute(app, "getSandboxMetrics", { query: metricsQuerySchema }, async ({ sandbox, query }) => {
    const row = await sandboxes.connects.present(sandbox);
    const { start = 0, end = Number.POSITIVE_INFINITY } = query;
    const samples = firstOfEachStep(await readMetrics(hosts, row, { isFresh: true }), stepSec);
    return samples.filter(({ timeUnixSec }) => timeUnixSec >= start && timeUnixSec <= end).map((sample) => viewMetric(sample, row.vcpus));
  });

  addE2bRoute(app, "getSandboxesMetrics", { query: newestQuerySchema }, async ({ caller, query }) => {
    const newest: Record<string, ReturnType<typeof viewMetric>> = {};
    const ids = query.sandbox_ids.filter((id) => sandboxIdPattern.test(id));
    const ask = async () => {
      for (let id = ids.pop(); id !== undefined; id = ids.pop()) {
        try {
          const row = await sandboxes.connects.present(ownedBy(caller.teamId, id));
          const sample = (await readMetrics(hosts, row, { isFresh: false })).at(-1);
          if (sample !== undefined) newest[id] = viewMetric(sample, row.vcpus);
        } catch (error) {
          if (!(error instanceof PlatformError) || error.code !== "sandbox_not_found") throw error; // one that is gone is left out
        }
      }
    };
    await Promise.all(Array.from({ length: concurrency }, ask));
    return { sandboxes: newest };
  });
}

function viewMetric(sample: MetricSample, vcpus: number) {
  return {
    timestamp: new Date(sample.timeUnixSec * 1_000).toISOString(),
    timestampUnix: sample.timeUnixSec,
    cpuCount: vcpus,
    cpuUsedPct: Math.round(sample.cpuPercent * 100) / 100,
    memUsed: sample.memoryBytes,
    memTotal: sample.memoryTotalBytes,
    memCache: sample.cacheBytes,
    diskUsed: sample.diskBytes,
    diskTotal: sample.diskTotalBytes,
  };
}
