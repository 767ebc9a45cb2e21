import type { RoostError } from "@roost/sdk";

/** Exit codes of the command line itself; `exec`, `run` and `shell` otherwise pass on their command's. */
export const exitCodes = { ok: 0, error: 1, usage: 2, interrupted: 130, brokenPipe: 141 } as const;

/** A failure with its own words and, often, what to do about it. */
export class CliError extends Error {
  override readonly name: string = "CliError";
  readonly hint: string | undefined;
  readonly exitCode: number;

  constructor(message: string, options: { readonly hint?: string; readonly exitCode?: number; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? {} : { cause: options.cause });
    this.hint = options.hint;
    this.exitCode = options.exitCode ?? exitCodes.error;
  }
}

/** The command line was wrong. */
export class UsageError extends CliError {
  override readonly name = "UsageError";

  constructor(message: string, hint?: string) {
    super(message, { exitCode: exitCodes.usage, ...(hint === undefined ? {} : { hint }) });
  }
}

/** A signal asked us to end. */
export class InterruptedError extends CliError {
  override readonly name = "InterruptedError";

  constructor(signal: NodeJS.Signals) {
    super("interrupted", { exitCode: signal === "SIGINT" ? exitCodes.interrupted : 128 + (signal === "SIGHUP" ? 1 : 15) });
  }
}

/** Whoever read our output has gone (`roost ls | head -1`): end quietly, as other programs do. */
export class BrokenPipeError extends CliError {
  override readonly name = "BrokenPipeError";

  constructor() {
    super("nobody reads the output any more", { exitCode: exitCodes.brokenPipe });
  }
}

export interface Failure {
  readonly code: string;
  readonly message: string;
  readonly hint: string | undefined;
  readonly exitCode: number;
  /** Ended by a signal or a closed pipe: nothing to report. */
  readonly isQuiet: boolean;
}

/** What is told of an error, whatever was thrown. */
export function describeFailure(error: unknown): Failure {
  if (error instanceof CliError) {
    const isQuiet = error instanceof InterruptedError || error instanceof BrokenPipeError;
    const code = error instanceof UsageError ? "usage" : "cli_error";
    return { code, message: error.message, hint: error.hint, exitCode: error.exitCode, isQuiet };
  }
  if (isRoostError(error)) {
    return { code: error.code, message: error.message, hint: hintOf(error), exitCode: exitCodes.error, isQuiet: false };
  }
  const message = error instanceof Error ? error.message : String(error);
  if (error instanceof Error && error.name === "OptionError") {
    return { code: "usage", message, hint: undefined, exitCode: exitCodes.usage, isQuiet: false };
  }
  const hint = isOperating(error) ? undefined : "this looks like a bug in roost; ROOST_DEBUG=1 shows where it happened";
  return { code: codeOf(error), message, hint, exitCode: exitCodes.error, isQuiet: false };
}

/** By name: loading the SDK for this would make every wrong command line slow. */
function isRoostError(error: unknown): error is RoostError {
  return error instanceof Error && error.name === "RoostError";
}

/** Errors of our own processes (by name: several bundles may each hold the class) and of the operating system. */
const operatingNames = new Set([
  "PlatformError",
  "CommandError",
  "DeadlineError",
  "InstanceLockedError",
  "WrongControlPlaneError",
  "ControlPlaneAwayError",
  "MigrationError",
]);

function isOperating(error: unknown): boolean {
  return error instanceof Error && (operatingNames.has(error.name) || typeof (error as NodeJS.ErrnoException).syscall === "string");
}

function codeOf(error: unknown): string {
  const code = (error as { code?: unknown } | undefined)?.code;
  return typeof code === "string" ? code : "cli_error";
}

const hints: Readonly<Record<string, string>> = {
  connection_failed: "is the platform running? `roost status` tells, `roost up --detach` starts it",
  api_key_invalid: "`roost login` signs you in; or set ROOST_API_KEY to a key of this platform, or unset it to use the local one",
  scope_missing: "`roost key create` makes a key with other scopes, if yours has keys:write",
  login_failed: "`roost account reset-password` replaces a forgotten one",
  signup_closed: "with an invitation: `roost account signup --invitation TOKEN`",
  team_not_found: "`roost team ls` lists your teams",
  session_required: "`roost login` signs you in",
  api_key_not_found: "`roost key ls` lists the keys",
  capacity_exhausted: "end sandboxes you no longer need (`roost ls`, `roost kill ID`) or ask for less memory",
  quota_exceeded: "end or pause sandboxes (`roost ls`), or ask an admin to raise the team's quota",
  template_not_found: "`roost template ls` lists the templates",
  template_in_use: "`roost ls --template NAME` lists the sandboxes of it",
  template_exists: "`roost template ls` lists the names that are taken",
  build_not_found: "`roost template builds` lists the builds",
  build_failed: "`roost template logs NAME` shows all that its last build said; what was done before the failing step is cached",
  snapshot_not_found: "`roost snapshot ls` lists the snapshots",
  snapshot_exists: "`roost snapshot ls` lists the names that are taken",
  generation_not_found: "`roost generations ID` lists what is kept",
  image_incompatible: "`roost resume ID --no-memory` boots it from its disk: files are kept, running programs are not",
  image_damaged:
    "`roost generations ID` lists what else is kept, `roost rollback ID GENERATION` goes there; `roost resume ID --no-memory` boots from the disk",
  template_size_fixed: "leave out --vcpus and --memory",
  sandbox_not_found: "`roost ls --all` lists the sandboxes",
  process_not_found: "`roost ps ID` lists the processes",
  exec_timeout: "give it longer with --timeout, or run it with --detach",
  output_too_large: "stream it: `roost exec` has no limit on output",
};

function hintOf(error: RoostError): string | undefined {
  if (error.retryAfterSec !== undefined) return `try again in ${error.retryAfterSec} s`;
  return (
    hints[error.code] ?? (error.status === 500 && error.requestId !== undefined ? `the log knows request ${error.requestId}` : undefined)
  );
}
