import { z } from "zod";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatFields } from "../output/table.ts";
import { askHealthSocket } from "../platform/health-socket.ts";

/** A clock that differs by more than this in `ms` is shown */
const clockOffsetMsShown = 1_000;

const healthSchema = z.object({
  healthy: z.boolean(),
  hostId: z.string(),
  address: z.string(),
  controlPlane: z.string(),
  wanted: z.string().nullable(),
  timeHeardMs: z.number().nullable(),
  clockOffsetMs: z.number(),
  certificateEndsMs: z.number(),
  ended: z.string().nullable(),
});

/** Shows the host agent that works in the state folder, and answers the exit code; undefined when there is none. */
export async function hostAgentStatus(context: CommandContext): Promise<number | undefined> {
  const parsed = healthSchema.safeParse(await askHealthSocket(context.settings.dir));
  if (!parsed.success) return undefined;
  const health = parsed.data;
  if (context.isJson) await context.printJson({ running: true, healthy: health.healthy, host_agent: health });
  else {
    const { colors } = context;
    const heard = health.timeHeardMs === null ? "not yet" : formatAgo(new Date(health.timeHeardMs).toISOString());
    await context.print(
      formatFields(colors, [
        [
          "host agent",
          health.healthy ? colors.green("healthy") : colors.red(printable(health.ended ?? "not healthy: the control plane is away")),
        ],
        ["host", `${health.hostId}, reached at ${health.address}`],
        ["control plane", `${health.controlPlane}, last heard of ${heard}`],
        ["wanted", health.wanted ?? undefined],
        [
          "clock",
          Math.abs(health.clockOffsetMs) < clockOffsetMsShown ? undefined : `${health.clockOffsetMs} ms ahead of the control plane's`,
        ],
        ["certificate", `until ${new Date(health.certificateEndsMs).toISOString()}`],
      ]),
    );
  }
  return health.healthy ? exitCodes.ok : exitCodes.error;
}
