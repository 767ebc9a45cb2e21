import { createLogger, type Logger } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { ConsoleLog } from "./console-log.ts";
import type { LogOptions } from "./platform-options.ts";
import { RotatingLog } from "./rotating-log.ts";

/** The log of a process of the platform: to a file, to people, or as JSON lines. It gets the bug that ends the process, too. */
export function openLog(context: CommandContext, { logLevel, logFile }: LogOptions): Logger {
  const log = createLogger({ level: logLevel, ...destinationOf(context, logFile) });
  // Node then ends the process as it would anyway; sandboxes go on and the next start adopts them
  process.on("uncaughtExceptionMonitor", (error, origin) => log.error({ err: error, origin }, "the platform ends by a bug"));
  return log;
}

function destinationOf(context: CommandContext, logFile: string | undefined) {
  if (logFile !== undefined) return { destination: new RotatingLog(logFile) };
  const isForPeople = context.io.stdout.isTTY === true && !context.isJson;
  return isForPeople ? { destination: new ConsoleLog(context.io.stdout, context.colors) } : {};
}
