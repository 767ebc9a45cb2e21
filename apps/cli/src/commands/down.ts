import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { withProgress } from "../output/progress.ts";
import { findRunning } from "../platform/endpoint.ts";
import { requestEnd } from "../platform/end-request.ts";

export interface DownOptions {
  readonly stopSandboxes?: boolean;
}

export async function down(context: CommandContext, options: DownOptions): Promise<number> {
  const { dir } = context.settings;
  const running = await findRunning(dir);
  if (running === undefined) {
    if (options.stopSandboxes === true) {
      throw new CliError(`no platform runs in ${dir}, and only a running one can end its sandboxes`, {
        hint: "`roost up --detach` finds them again; then `roost down --stop-sandboxes`",
      });
    }
    if (context.isJson) await context.printJson({ stopped: false });
    else await context.print(`no platform runs in ${dir}`);
    return exitCodes.ok;
  }
  const stopSandboxes = options.stopSandboxes === true;
  await withProgress(context, "stopping the platform", async () =>
    requestEnd(dir, running.identity, { stopSandboxes, signal: context.signal }),
  );
  if (context.isJson) await context.printJson({ stopped: true, pid: running.identity.pid });
  else await context.print(stopSandboxes ? "the platform and all sandboxes have ended" : "the platform has ended; sandboxes go on");
  return exitCodes.ok;
}
