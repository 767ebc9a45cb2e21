import { CommanderError } from "commander";
import picocolors from "picocolors";

import type { CommandContext, CommonOptions } from "./context.ts";
import { describeFailure, exitCodes, type Failure } from "./failure.ts";
import { Interrupts } from "./interrupts.ts";
import { hasColors, type Io } from "./io.ts";
import { printable } from "./output/printable.ts";
import { liftOptions } from "./program/lift-options.ts";
import { createProgram } from "./program/program.ts";

/** Commands whose settings are flags: others need not load the servers' tables. */
const platformCommands: ReadonlySet<string> = new Set(["up", "control-plane", "host-agent"]);

/** Runs one command line and answers its exit code. Errors are told on standard error, never thrown. */
export async function runCli(argv: readonly string[], io: Io, force: (exitCode: number) => void): Promise<number> {
  let exitCode: number = exitCodes.ok;
  const run = async (options: CommonOptions, work: (context: CommandContext) => Promise<number>) => {
    using interrupts = new Interrupts(io.signals, (signal) => force(signal === "SIGINT" ? exitCodes.interrupted : exitCodes.error));
    try {
      const { CommandContext } = await import("./context.ts"); // help and wrong usage need none of what it brings
      exitCode = await work(new CommandContext(io, interrupts, options));
    } catch (error) {
      // an interrupted request may fail in its own words: what the user did is the better answer
      const shown: unknown = interrupts.signal.aborted ? interrupts.signal.reason : error;
      exitCode = report(io, shown, options.json === true);
    }
  };
  try {
    const settings = platformCommands.has(argv[0] ?? "") ? ((await import("./platform/tables.ts")).tablesOf[argv[0] ?? ""] ?? []) : [];
    const program = createProgram({ io, run, settings });
    if (argv.length === 0) program.outputHelp();
    else await program.parseAsync(liftOptions(program, argv), { from: "user" });
  } catch (error) {
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage; // it has told the user
    return report(io, error, false);
  }
  return exitCode;
}

function report(io: Io, error: unknown, isJson: boolean): number {
  const failure = describeFailure(error);
  if (!failure.isQuiet) io.stderr.write(isJson ? formatJson(failure) : formatText(io, failure));
  if ((io.environment["ROOST_DEBUG"] ?? "") !== "" && error instanceof Error) io.stderr.write(`${stacks(error)}\n`);
  return failure.exitCode;
}

function formatText(io: Io, failure: Failure): string {
  const colors = picocolors.createColors(hasColors(io.stderr, io.environment));
  const hint = failure.hint === undefined ? "" : `${colors.dim("hint:")}  ${failure.hint}\n`;
  const message = failure.message.split("\n").map(printable).join("\n"); // it may repeat what a guest said
  return `${colors.red("error:")} ${message}\n${hint}`;
}

function formatJson({ code, message, hint }: Failure): string {
  return `${JSON.stringify({ error: { code, message, ...(hint === undefined ? {} : { hint }) } })}\n`;
}

function stacks(error: Error): string {
  const cause = error.cause instanceof Error ? `\ncaused by ${stacks(error.cause)}` : "";
  return `${error.stack ?? error.message}${cause}`;
}
