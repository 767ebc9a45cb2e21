import { PlatformError, type RecipeStep } from "@roost/contract";

import { BuildFailed } from "./failures.ts";
import type { BuildGuest } from "./build-guest.ts";
import { shellCommand, type CommandEnd } from "./guest-command.ts";
import { withHome, type StepContext } from "./step-context.ts";

/** Lines of what a command printed last that its failure repeats */
const shownLinesMax = 10;
/** Above it a shell's exit code says which signal ended its command */
const signalExitCode = 128;

/** RUN. Throws `BuildFailed` as E2B says it, with what the command printed last. */
export async function runStep(
  guest: BuildGuest,
  label: string,
  step: Extract<RecipeStep, { readonly kind: "run" }>,
  context: StepContext,
  onLine: (line: string) => Promise<void>,
): Promise<void> {
  const failed = (why: string, cause?: unknown) => new BuildFailed(label, `failed to run command '${step.command}': ${why}`, { cause });
  let end: CommandEnd;
  try {
    const { name, home } = await guest.account(step.user ?? context.user);
    end = await guest.run(shellCommand(step.command, { user: name, workdir: withHome(context.workdir, home), envs: context.envs }), {
      onLine,
    });
  } catch (error) {
    if (error instanceof PlatformError && error.code === "user_unknown")
      throw failed(`command failed: unauthenticated: ${error.message}`, error);
    if (error instanceof PlatformError && error.code === "request_invalid") throw failed(`command failed: ${error.message}`, error);
    throw error;
  }
  if (end.exitCode !== 0) throw failed(exitText(end));
}

/** `exit status 2` and the last lines. */
export function exitText({ exitCode, tail }: CommandEnd): string {
  const shown = tail.slice(-shownLinesMax);
  const killed = exitCode === signalExitCode + 9 ? " (it was killed: perhaps the build has too little memory)" : "";
  const last = shown.length === 0 ? "; it printed nothing" : `; it printed last:\n${shown.join("\n")}`;
  return `exit status ${exitCode}${killed}${last}`;
}
