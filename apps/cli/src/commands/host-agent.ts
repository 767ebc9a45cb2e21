import { mkdir } from "node:fs/promises";

import { hostAgentOptions, membershipOptions } from "@roost/host-agent/options";
import type { AnyOptions } from "@roost/kit";

import type { CommandContext, CommonOptions } from "../context.ts";
import { CliError } from "../failure.ts";
import { machineChecks } from "../platform/checks.ts";
import { findRunning, stateFolderMode } from "../platform/endpoint.ts";
import { openLog } from "../platform/open-log.ts";
import { openTelemetry } from "../platform/open-telemetry.ts";
import { PlatformLock } from "../platform/platform-lock.ts";
import { fateOptions, logOptions, refuseUnknownNames } from "../platform/platform-options.ts";
import { refuseToStart } from "../platform/refuse-to-start.ts";
import { fateOf } from "../platform/sandbox-fate.ts";
import { serve } from "../platform/serve.ts";
import { clientOptions } from "../settings.ts";

export async function hostAgent(
  context: CommandContext,
  flags: CommonOptions & Readonly<Record<string, unknown>>,
  tables: readonly AnyOptions[],
): Promise<number> {
  const { environment } = context.io;
  refuseUnknownNames(environment, [...tables, clientOptions]);
  const settings = { hostAgent: hostAgentOptions.read(environment, flags), membership: membershipOptions.read(environment, flags) };
  const logSettings = logOptions.read(environment, flags);
  const sandboxes = fateOf(fateOptions.read(environment, flags));
  const { dir, cacheDir } = settings.hostAgent;
  const running = await findRunning(dir);
  if (running !== undefined) throw alreadyRunning(dir, ` (pid ${running.identity.pid})`);
  refuseToStart(await machineChecks({ dir, cacheDir }));
  await mkdir(dir, { recursive: true, mode: stateFolderMode });
  await using lock = await PlatformLock.take(dir);
  if (lock === undefined) throw alreadyRunning(dir, "");
  const log = openLog(context, logSettings);
  await using _telemetry = await openTelemetry(context, "roost-host-agent", log);
  try {
    const { startHostAgentProcess } = await import("../platform/host-agent-process.ts");
    const process = await startHostAgentProcess(settings, log, context.signal);
    await context.note(`This machine is host ${process.hostId} of ${process.controlPlane}, reached at ${process.address}.`);
    return await serve(context, process, { dir, sandboxes, ignoresHangup: logSettings.logFile !== undefined }, log);
  } catch (error) {
    log.error({ err: error }, "the host agent failed");
    throw error;
  }
}

function alreadyRunning(dir: string, which: string): CliError {
  return new CliError(`a platform already runs in ${dir}${which}`, { hint: "ROOST_DIR chooses another folder" });
}
