import { Option, type Command } from "commander";

import type { PortOptions } from "../commands/port.ts";
import { parseSeconds } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Inside a sandbox:";

/** How programs on this machine reach what runs in a sandbox. */
export function defineReachCommands(program: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    program
      .command("port")
      .helpGroup(group)
      .description("the URL of a port of a sandbox; or bring the port to this machine")
      .argument("<id>", "sandbox id or its beginning")
      .argument("[port]", "what listens there may listen on localhost only (default: show who may reach which port)")
      .addOption(new Option("--access <who>", "change who may reach it first").choices(["private", "public", "default"]))
      .option("--expires <time>", "how long the URL of a private port works, such as 10m (default: 1h)", parseSeconds)
      .option("--path <path>", "where the URL leads within the port")
      .option("-f, --forward [local]", "listen here, at [ADDRESS:]PORT or a free port of 127.0.0.1, and carry any TCP; ends with Ctrl-C")
      .option("--expose", "let --forward listen where other machines can reach it")
      .addHelpText(
        "after",
        examples(
          "roost port i3x 8080",
          "roost port i3x 8080 --access public",
          "roost port i3x 5432 --forward",
          "roost port i3x 5432 --forward 5432",
        ),
      ),
  ).action(async (id: string, port: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/port.ts")).port(context, id, port, options as PortOptions)),
  );

  withCommonOptions(
    program
      .command("ssh")
      .helpGroup(group)
      .description("OpenSSH into a sandbox, for editors, scp, sftp, rsync and git, too")
      .argument("[id]", "sandbox id or its beginning; ID.roost is as good")
      .argument("[words...]", "options of ssh that begin with -, then -- and a command")
      .option("--config", "print what goes into ~/.ssh/config so that every SSH program knows ID.roost")
      .option("--install", "with --config: put it there")
      .addOption(new Option("--stdio", "be the SSH server on standard input and output (what ssh itself starts)").hideHelp())
      .option("-u, --user <name>", "user inside the sandbox")
      .passThroughOptions()
      .addHelpText(
        "after",
        examples(
          "roost ssh i3x",
          "roost ssh i3x -- make test",
          "roost ssh i3x -L 5432:localhost:5432 -N",
          "roost ssh --config --install",
          "scp report.py i3xlsgtlvhpv64me979bm.roost:",
        ),
      ),
  ).action(async (id: string | undefined, words: string[], options) =>
    run(options, async (context) => (await import("../commands/ssh.ts")).ssh(context, id, words, options)),
  );
}
