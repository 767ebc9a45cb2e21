import { z } from "zod";

/** Longest time that one question covers, in days */
export const usageDaysMax = 400;
/** Rows of an answer by sandbox or template; those that used most come first */
export const usageRowsMax = 1000;

const instantSchema = z.union([z.iso.date(), z.iso.datetime()]).describe("A day (its begin, UTC) or an instant");

export const usageGroups = ["day", "sandbox", "template"] as const;
export type UsageGroup = (typeof usageGroups)[number];

export const usageQuerySchema = z.strictObject({
  from: instantSchema.optional().describe("Default: 30 days before `to`"),
  to: instantSchema.optional().describe("Default: now. Usage up to, not after, this instant"),
  group: z.enum(usageGroups).default("day"),
});
export type UsageQuery = z.output<typeof usageQuerySchema>;

const amountsShape = {
  sandbox_seconds: z.number().describe("Time that sandboxes ran"),
  vcpu_seconds: z.number().describe("That time, by their vCPUs"),
  memory_mib_seconds: z.number().describe("That time, by their memory"),
  disk_mib_seconds: z.number().describe("Time that they ran or were paused, by the size of their disks"),
};
export const usageAmountsSchema = z.object(amountsShape).meta({ id: "UsageAmounts" });
export type UsageAmounts = z.infer<typeof usageAmountsSchema>;

export const usageSchema = z
  .object({
    from: z.iso.datetime(),
    to: z.iso.datetime(),
    group: z.enum(usageGroups),
    total: usageAmountsSchema.describe("Of all sandboxes of the team, also those that worked for builds"),
    rows: z.array(z.object({ key: z.string().describe("The day (UTC), the sandbox's id or the template's name"), ...amountsShape })),
    is_complete: z.boolean().describe(`false: only the ${usageRowsMax} that used most are in \`rows\``),
  })
  .meta({ id: "Usage" });
export type Usage = z.infer<typeof usageSchema>;

/** Range of a stats query → length in `s`, and of one step of its series. */
export const statsRanges = {
  "5m": { rangeSec: 300, stepSec: 5 },
  "1h": { rangeSec: 3_600, stepSec: 30 },
  "6h": { rangeSec: 6 * 3_600, stepSec: 180 },
  "24h": { rangeSec: 24 * 3_600, stepSec: 720 },
  "7d": { rangeSec: 7 * 24 * 3_600, stepSec: 3_600 },
  "30d": { rangeSec: 30 * 24 * 3_600, stepSec: 6 * 3_600 },
} as const;
export type StatsRange = keyof typeof statsRanges;

export const statsQuerySchema = z.strictObject({
  range: z.enum(Object.keys(statsRanges) as [StatsRange, ...StatsRange[]]).default("1h"),
});
export type StatsQuery = z.output<typeof statsQuerySchema>;

const loadSchema = z.object({ running: z.int(), vcpus: z.int(), memory_mb: z.int() });

export const statsSchema = z
  .object({
    range: z.enum(Object.keys(statsRanges) as [StatsRange, ...StatsRange[]]),
    now: loadSchema.extend({ paused: z.int() }),
    peaks: loadSchema.describe("Most at any instant of the range, each by itself"),
    series: z.array(loadSchema.extend({ time: z.iso.datetime() })).describe("Most in each step, which begins at `time`"),
  })
  .meta({ id: "Stats" });
export type Stats = z.infer<typeof statsSchema>;
