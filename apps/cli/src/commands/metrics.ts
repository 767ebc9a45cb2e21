import type { Metrics, MetricsRange } from "@roost/contract";
import { formatBytes } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { sparkline } from "../output/format.ts";
import { formatTable } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Bars in a line of history. */
const sparklineWidth = 40;

export async function metrics(context: CommandContext, reference: string, options: { readonly range: MetricsRange }): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const answer = await client.sandboxes.metrics(id, options.range, { signal: context.signal });
  if (context.isJson) await context.printJson(answer);
  else if (answer.points.length === 0) await context.note("nothing was measured yet; ask again in a few seconds");
  else await context.print(formatMetrics(context, answer));
  return exitCodes.ok;
}

function formatMetrics(context: CommandContext, { points, range, memory_total_bytes, disk_total_bytes }: Metrics): string {
  const row = (name: string, values: number[], total: number, format: (value: number) => string) => [
    name,
    format(values.at(-1) ?? 0),
    format(values.reduce((sum, value) => sum + value, 0) / values.length),
    format(Math.max(...values)),
    format(total),
    sparkline(values, total, sparklineWidth),
  ];
  const percent = (value: number) => `${value.toFixed(1)} %`;
  return formatTable(
    context.colors,
    ["", "NOW", "MEAN", "MOST", "OF", `LAST ${range}`],
    [
      row(
        "cpu",
        points.map((point) => point.cpu_pct),
        100,
        percent,
      ),
      row(
        "memory",
        points.map((point) => point.mem_bytes),
        memory_total_bytes,
        formatBytes,
      ),
      row(
        "disk",
        points.map((point) => point.disk_bytes),
        disk_total_bytes,
        formatBytes,
      ),
    ],
  );
}
