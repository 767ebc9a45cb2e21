import { Command } from "commander";

import { version } from "../version.ts";
import { defineAccountCommands } from "./account-commands.ts";
import { defineAdminCommands } from "./admin-commands.ts";
import { defineAuditCommands } from "./audit-commands.ts";
import { defineChannelCommands } from "./channel-commands.ts";
import type { ProgramEnvironment } from "./define.ts";
import { defineGuestCommands } from "./guest-commands.ts";
import { defineHostCommands } from "./host-commands.ts";
import { defineKeyCommands } from "./key-commands.ts";
import { defineNetworkCommands } from "./network-commands.ts";
import { definePlatformCommands } from "./platform-commands.ts";
import { defineReachCommands } from "./reach-commands.ts";
import { defineSandboxCommands } from "./sandbox-commands.ts";
import { defineSavingCommands } from "./saving-commands.ts";
import { defineTeamCommands } from "./team-commands.ts";
import { defineTemplateCommands } from "./template-commands.ts";
import { defineTrafficTokenCommand } from "./traffic-token-command.ts";

/** The whole command line. What commands do is loaded when one runs, so that help and completion are quick. */
export function createProgram(environment: ProgramEnvironment): Command {
  const { io } = environment;
  const program = new Command("roost")
    .description("Sandboxes for AI agents: microVMs on your own machine.")
    .version(version, "-V, --version", "print the version")
    .helpOption("-h, --help", "show help; also of one command: roost COMMAND --help")
    .helpCommand(false)
    .enablePositionalOptions()
    .showSuggestionAfterError()
    .configureHelp({ helpWidth: Math.min(io.stdout.columns ?? 100, 120), sortOptions: false })
    .configureOutput({
      writeOut: (text) => void io.stdout.write(text),
      writeErr: (text) => void io.stderr.write(text),
      getOutHasColors: () => false,
      getErrHasColors: () => false,
    })
    .exitOverride();
  program.addHelpText(
    "after",
    `
Start:
  $ roost up --detach                      start the platform on this machine
  $ roost run -- python3 -c 'print(6*7)'   run something in a fresh sandbox
  $ ID=$(roost create) && roost shell $ID  a sandbox to stay in
  $ roost pause $ID; roost resume $ID      saved with what runs in it, and back
  $ roost template build . -t mine         a template of your own, from a Dockerfile

Exit codes: 0 fine · 1 error · 2 wrong usage · 130 interrupted; exec, run, shell and ssh end with their command's own code.`,
  );
  defineSandboxCommands(program, environment);
  defineNetworkCommands(program, environment);
  defineSavingCommands(program, environment);
  defineTemplateCommands(program, environment);
  defineGuestCommands(program, environment);
  defineReachCommands(program, environment);
  defineTrafficTokenCommand(program, environment);
  defineAccountCommands(program, environment);
  defineTeamCommands(program, environment);
  defineKeyCommands(program, environment);
  defineAdminCommands(program, environment);
  defineHostCommands(program, environment);
  defineChannelCommands(program, environment);
  defineAuditCommands(program, environment);
  definePlatformCommands(program, environment);
  return program;
}
