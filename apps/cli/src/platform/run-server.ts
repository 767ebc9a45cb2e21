import { mkdir } from "node:fs/promises";

import type { Logger } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { CliError } from "../failure.ts";
import { stateFolderMode } from "./endpoint.ts";
import { openLog } from "./open-log.ts";
import { openTelemetry } from "./open-telemetry.ts";
import { PlatformLock } from "./platform-lock.ts";
import type { logOptions } from "./platform-options.ts";
import { serve, type Served, type ServeOptions } from "./serve.ts";

export interface ServerProcess {
  /** State folder; one server has it at a time */
  readonly dir: string;
  /** For people, with its article: `the host agent` */
  readonly what: string;
  /** What its traces are filed under */
  readonly service: string;
  readonly log: ReturnType<typeof logOptions.read>;
  readonly sandboxes: ServeOptions["sandboxes"];
}

/**
 * Runs a server in this process until a signal ends it: takes the state folder, opens log and traces, starts, tells the terminal, serves. `start` answers what runs, and what a person is to know
 * of it; it is called when nobody else can be at work in the folder.
 */
export async function runServer(
  context: CommandContext,
  { dir, what, service, log: logSettings, sandboxes }: ServerProcess,
  start: (log: Logger) => Promise<{ readonly running: Served; readonly note: string | undefined }>,
): Promise<number> {
  await mkdir(dir, { recursive: true, mode: stateFolderMode });
  await using lock = await PlatformLock.take(dir);
  if (lock === undefined) throw alreadyRunning(dir);
  const log = openLog(context, logSettings);
  await using _telemetry = await openTelemetry(context, service, log);
  try {
    const { running, note } = await start(log);
    if (note !== undefined) await context.note(note);
    return await serve(context, running, { dir, sandboxes, ignoresHangup: logSettings.logFile !== undefined }, log);
  } catch (error) {
    log.error({ err: error }, `${what} failed`);
    throw error;
  }
}

/** `pid`: of who has the folder, where that is known. */
export function alreadyRunning(dir: string, pid?: number): CliError {
  return new CliError(`a platform already runs in ${dir}${pid === undefined ? "" : ` (pid ${pid})`}`, {
    hint: "`roost status` shows it, `roost down` ends it; ROOST_DIR chooses another folder",
  });
}
