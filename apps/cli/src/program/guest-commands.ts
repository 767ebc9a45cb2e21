import type { Command } from "commander";

import { UsageError } from "../failure.ts";
import { parseEnvironment, parseSeconds } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";
import { withCreateOptions } from "./sandbox-commands.ts";

const group = "Inside a sandbox:";

/** `ID -- command …` is as good as `ID command …`: what stands behind the id is passed through, dashes and all. */
const withoutDashes = (words: readonly string[]) => (words[0] === "--" ? words.slice(1) : words);

function withExecOptions(command: Command, { io }: ProgramEnvironment): Command {
  return command
    .option("-i, --stdin", "pass standard input on")
    .option("-e, --env <name=value>", "environment variable; a name alone passes yours on; repeatable", parseEnvironment(io.environment))
    .option("-C, --cwd <folder>", "where the command runs (default: the user's home)")
    .option("-u, --user <name>", "user inside the sandbox")
    .option("--timeout <time>", "kill the command after this long, such as 30s or 5m", parseSeconds);
}

export function defineGuestCommands(program: Command, environment: ProgramEnvironment): void {
  const { run } = environment;

  withCommonOptions(
    withExecOptions(
      withCreateOptions(program.command("run").helpGroup(group).description("create a sandbox, run a command in it, delete it")),
      environment,
    )
      .option("--keep", "leave the sandbox; its id is printed on standard error")
      .argument("<command>", "program to run")
      .argument("[args...]", "its arguments")
      .passThroughOptions()
      .addHelpText(
        "after",
        examples(
          "roost run -- uname -a",
          "roost run -- sh -c 'exit 7'; echo $?",
          "echo 'print(6*7)' | roost run -i -- python3 -",
          "roost run --keep -e GREETING=hello -- sh -c 'echo $GREETING'",
        ),
      ),
  ).action(async (command: string, args: string[], options) =>
    run(options, async (context) => (await import("../commands/run.ts")).run(context, command, args, options)),
  );

  withCommonOptions(
    withExecOptions(program.command("exec").helpGroup(group).description("run a command in a sandbox"), environment)
      .option("-d, --detach", "start it in the background and print its pid and tag")
      .option("--tag <name>", "name the process, to find it again")
      .argument("<id>", "sandbox id or its beginning")
      .argument("<command>", "program to run; use sh -c for shell syntax")
      .argument("[args...]", "its arguments")
      .passThroughOptions()
      .addHelpText(
        "after",
        examples(
          "roost exec i3x ls -la /",
          "roost exec -i i3x tar -xzf - < project.tar.gz",
          "roost exec --detach --tag server i3x python3 -m http.server",
        ),
      ),
  ).action(async (id: string, first: string, rest: string[], options) =>
    run(options, async (context) => {
      const [command, ...args] = withoutDashes([first, ...rest]);
      if (command === undefined) throw new UsageError("there is no command behind --");
      return (await import("../commands/exec.ts")).exec(context, id, command, args, options);
    }),
  );

  withCommonOptions(
    program
      .command("shell")
      .helpGroup(group)
      .description("a terminal in a sandbox; Ctrl-] leaves it running")
      .argument("<id>", "sandbox id or its beginning")
      .argument("[command]", "program to run (default: /bin/bash)")
      .argument("[args...]", "its arguments")
      .option("--tag <name>", "connect to the terminal of this name, or start it")
      .option("-e, --env <name=value>", "environment variable; repeatable", parseEnvironment(environment.io.environment))
      .option("-C, --cwd <folder>", "where it starts (default: the user's home)")
      .option("-u, --user <name>", "user inside the sandbox")
      .option("--detach-key <key>", "ctrl-<character> that leaves, or none", "ctrl-]")
      .passThroughOptions()
      .addHelpText("after", examples("roost shell i3x", "roost shell i3x --tag work", "roost shell -u root i3x top")),
  ).action(async (id: string, first: string | undefined, rest: string[], options) =>
    run(options, async (context) => {
      const [command, ...args] = withoutDashes(first === undefined ? [] : [first, ...rest]);
      return (await import("../commands/shell.ts")).shell(context, id, command, args, options);
    }),
  );

  withCommonOptions(
    program
      .command("cp")
      .helpGroup(group)
      .description("copy files and folders into or out of a sandbox")
      .argument("<source>", "path, ID:path, or - for standard input")
      .argument("<destination>", "path, ID:path, or - for standard output")
      .option("-u, --user <name>", "user inside the sandbox")
      .addHelpText(
        "after",
        examples(
          "roost cp report.py i3x:",
          "roost cp i3x:/home/user/report.txt .",
          "roost cp ./project i3x:work",
          "roost cp i3x:/etc/os-release - | grep NAME",
        ),
      ),
  ).action(async (source: string, destination: string, options) =>
    run(options, async (context) => (await import("../commands/copy.ts")).copy(context, source, destination, options)),
  );

  withCommonOptions(
    program
      .command("ps")
      .helpGroup(group)
      .description("list the processes that were started from outside")
      .argument("<id>", "sandbox id or its beginning")
      .addHelpText("after", examples("roost ps i3x")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/processes.ts")).processes(context, id)),
  );
}
