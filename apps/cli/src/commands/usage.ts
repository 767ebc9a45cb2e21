import type { StatsRange, UsageAmounts, UsageGroup } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatMemory, sparkline } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";

/** Bars in a line of history */
const sparklineWidth = 60;
const hourSec = 3_600;

export interface UsageFlags {
  readonly from?: string;
  readonly to?: string;
  readonly by: UsageGroup;
}

/** What the team used, and the sum of it. */
export async function usage(context: CommandContext, flags: UsageFlags): Promise<number> {
  const client = await context.client();
  const answer = await client.usage({ from: flags.from, to: flags.to, group: flags.by, signal: context.signal });
  if (context.isJson) await context.printJson(answer);
  else {
    const rows = answer.rows.map(({ key, ...amounts }) => [printable(key), ...hoursOf(amounts)]);
    const headings = [answer.group.toUpperCase(), "SANDBOX HOURS", "VCPU HOURS", "MEMORY GIB HOURS", "DISK GIB HOURS"];
    await context.print(formatTable(context.colors, headings, [...rows, ["total", ...hoursOf(answer.total)]]));
    if (!answer.is_complete) await context.warn("only those that used most are shown; the total is of all");
  }
  return exitCodes.ok;
}

function hoursOf(amounts: UsageAmounts): string[] {
  const { sandbox_seconds, vcpu_seconds, memory_mib_seconds, disk_mib_seconds } = amounts;
  return [sandbox_seconds, vcpu_seconds, memory_mib_seconds / 1024, disk_mib_seconds / 1024].map((sec) => (sec / hourSec).toFixed(3));
}

/** What runs now, the most that ran, and over time. */
export async function stats(context: CommandContext, flags: { readonly range: StatsRange }): Promise<number> {
  const client = await context.client();
  const answer = await client.stats(flags.range, { signal: context.signal });
  if (context.isJson) await context.printJson(answer);
  else {
    const { now, peaks, series, range } = answer;
    const line = (of: "running" | "vcpus" | "memory_mb") =>
      sparkline(
        series.map((step) => step[of]),
        peaks[of],
        sparklineWidth,
      );
    const rows = [
      ["sandboxes", String(now.running), String(peaks.running), line("running")],
      ["vcpus", String(now.vcpus), String(peaks.vcpus), line("vcpus")],
      ["memory", formatMemory(now.memory_mb), formatMemory(peaks.memory_mb), line("memory_mb")],
    ];
    await context.print(formatTable(context.colors, ["", "NOW", "MOST", `LAST ${range}`], rows));
    await context.note(`${now.paused} paused`);
  }
  return exitCodes.ok;
}
