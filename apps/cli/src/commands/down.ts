import type { CommandContext } from "../context.ts";
import { CliError, exitCodes, UsageError } from "../failure.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import { findRunning, type RunningPlatform } from "../platform/endpoint.ts";
import { requestEnd, type SandboxFate } from "../platform/end-request.ts";
import { readPauseReport, removePauseReport, type PauseReport } from "../platform/pause-report.ts";

export interface DownOptions {
  readonly stopSandboxes?: boolean;
  readonly pause?: boolean;
}

export async function down(context: CommandContext, options: DownOptions): Promise<number> {
  const fate = fateOf(options);
  const { dir } = context.settings;
  const running = await findRunning(dir);
  if (running === undefined) return noPlatform(context, fate);
  const report = await end(context, running, fate);
  const { pid } = running.identity;
  if (fate === "pause") return tellPaused(context, pid, report);
  if (context.isJson) await context.printJson({ stopped: true, pid });
  else
    await context.print(fate === "stop" ? "the platform and all sandboxes that ran have ended" : "the platform has ended; sandboxes go on");
  return exitCodes.ok;
}

function fateOf(options: DownOptions): SandboxFate {
  if (options.stopSandboxes === true && options.pause === true) throw new UsageError("--stop-sandboxes and --pause exclude each other");
  return options.stopSandboxes === true ? "stop" : options.pause === true ? "pause" : "leave";
}

async function noPlatform(context: CommandContext, fate: SandboxFate): Promise<number> {
  const { dir } = context.settings;
  if (fate !== "leave") {
    const [verb, option] = fate === "stop" ? ["end", "--stop-sandboxes"] : ["pause", "--pause"];
    throw new CliError(`no platform runs in ${dir}, and only a running one can ${verb} its sandboxes`, {
      hint: `\`roost up --detach\` finds them again; then \`roost down ${option}\``,
    });
  }
  if (context.isJson) await context.printJson({ stopped: false });
  else await context.print(`no platform runs in ${dir}`);
  return exitCodes.ok;
}

/** Ends the platform; answers what it said of pausing. */
async function end(context: CommandContext, { identity }: RunningPlatform, sandboxes: SandboxFate): Promise<PauseReport | undefined> {
  const { dir } = context.settings;
  try {
    await withProgress(context, "stopping the platform", async (progress) => {
      const onWait = () => {
        const report = sandboxes === "pause" ? readPauseReport(dir, identity) : undefined;
        if (report !== undefined)
          progress.update(report.isOver ? "stopping the platform" : `pausing sandboxes: ${report.paused} of ${report.total}`);
      };
      await requestEnd(dir, identity, { sandboxes, signal: context.signal, onWait });
    });
    return readPauseReport(dir, identity);
  } finally {
    if (sandboxes === "pause") removePauseReport(dir);
  }
}

async function tellPaused(context: CommandContext, pid: number, report: PauseReport | undefined): Promise<number> {
  const isWhole = report?.isOver === true;
  const paused = report?.paused ?? 0;
  const failed = (report?.failed ?? []).map(({ sandboxId, message }) => ({ sandbox_id: sandboxId, message: printable(message) }));
  if (context.isJson) await context.printJson({ stopped: true, pid, paused, failed, complete: isWhole });
  else await context.print(`the platform has ended; ${paused === 1 ? "1 sandbox is" : `${paused} sandboxes are`} paused`);
  for (const { sandbox_id: id, message } of failed) await context.warn(`${id} goes on: ${message}`);
  if (!isWhole) await context.warn("the platform ended before it had paused all sandboxes; the others go on");
  return isWhole && failed.length === 0 ? exitCodes.ok : exitCodes.error;
}
