import type { AnyOptions } from "@roost/kit";
import { Option, type Command } from "commander";

import type { CommandContext, CommonOptions } from "../context.ts";
import type { Io } from "../io.ts";

/** What definitions of commands share: how to run one, and what the program was started with. */
export interface ProgramEnvironment {
  readonly io: Io;
  /** Settings that the command takes as flags; empty unless it is a process of a platform. */
  readonly settings: readonly AnyOptions[];
  /** Runs a command's work and keeps its exit code. */
  run(options: CommonOptions, work: (context: CommandContext) => Promise<number>): Promise<void>;
}

/** Options of every command that talks to a platform. They stand behind the command's name. */
export function withCommonOptions(command: Command): Command {
  return withLocalOptions(command).addOption(
    new Option("--url <url>", "platform to talk to (ROOST_URL; default: this machine's)").helpGroup("Common options:"),
  );
}

/** Options of commands that are about this machine. */
export function withLocalOptions(command: Command): Command {
  return command
    .addOption(new Option("--json", "print JSON, for programs").helpGroup("Common options:"))
    .addOption(new Option("--dir <folder>", "state folder of this machine's platform (ROOST_DIR)").helpGroup("Common options:"));
}

export function examples(...lines: readonly string[]): string {
  return `\nExamples:\n${lines.map((line) => `  $ ${line}`).join("\n")}`;
}
