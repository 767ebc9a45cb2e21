import { readFileSync, rmSync } from "node:fs";
import { join } from "node:path";

import { writeFileDurably, type ProcessIdentity } from "@roost/kit";
import { z } from "zod";

/** How far a platform that ends is with pausing its sandboxes: it writes, `roost down` reads. */
const pauseReportSchema = z.object({
  pid: z.int(),
  startTicks: z.string(),
  /** Sandboxes that ran when it began */
  total: z.int(),
  paused: z.int(),
  /** Those that could not be paused; they go on */
  failed: z.array(z.object({ sandboxId: z.string(), message: z.string() })),
  isOver: z.boolean(),
});
export type PauseReport = Omit<z.infer<typeof pauseReportSchema>, "pid" | "startTicks">;

const pauseReportPath = (dir: string) => join(dir, "pause-report.json");

export async function writePauseReport(dir: string, self: ProcessIdentity, report: PauseReport): Promise<void> {
  await writeFileDurably(pauseReportPath(dir), JSON.stringify({ ...self, ...report }), { mode: 0o600 });
}

/** What the process said last; undefined when it said nothing yet. */
export function readPauseReport(dir: string, { pid, startTicks }: ProcessIdentity): PauseReport | undefined {
  try {
    const report = pauseReportSchema.parse(JSON.parse(readFileSync(pauseReportPath(dir), "utf8")));
    return report.pid === pid && report.startTicks === startTicks ? report : undefined;
  } catch {
    return undefined; // not there yet, or an earlier process's
  }
}

export function removePauseReport(dir: string): void {
  rmSync(pauseReportPath(dir), { force: true });
}
