import type { CommandContext, CommonOptions } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { e2bEnvironment, formatExports, type ExportShell } from "../platform/e2b-environment.ts";
import { findAccess } from "../settings.ts";

export interface E2bEnvFlags extends CommonOptions {
  readonly shell: ExportShell;
}

/** Prints what makes the E2B SDK and CLI use the platform. It asks nobody: the platform need not run when its address is given. */
export async function e2bEnv(context: CommandContext, { shell }: E2bEnvFlags): Promise<number> {
  const environment = e2bEnvironment(await findAccess(context.settings));
  if (context.isJson) await context.printJson(environment);
  else await context.print(formatExports(environment, shell));
  return exitCodes.ok;
}
