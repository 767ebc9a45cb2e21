import { drainModes, type DrainMode } from "@roost/contract";
import { InvalidArgumentError, Option, type Command } from "commander";

import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Hosts:";
const anHost = ["<host>", "a host's id, its beginning, or its name"] as const;

function parseDrainMode(text: string): DrainMode {
  const mode = drainModes.find((known) => known === text);
  if (mode !== undefined) return mode;
  throw new InvalidArgumentError(`Write one of ${drainModes.join(", ")}.`);
}

/** Machines that run sandboxes, for who runs the platform. */
export function defineHostCommands(program: Command, { run }: ProgramEnvironment): void {
  const host = program
    .command("host")
    .helpGroup(group)
    .description("machines that run sandboxes: add, empty and remove them")
    .helpCommand(false)
    .addHelpText("after", examples("roost host add rack-7", "roost host ls", "roost host drain rack-7", "roost host rm rack-7"));

  withCommonOptions(
    host
      .command("ls")
      .alias("list")
      .description("list hosts")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost host ls")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/hosts.ts")).listHosts(context, options)));

  withCommonOptions(
    host
      .command("get")
      .description("show all about a host")
      .argument(...anHost)
      .addHelpText("after", examples("roost host get rack-7")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).getHost(context, reference)),
  );

  withCommonOptions(
    host
      .command("add")
      .description("announce a host; prints the token that `roost host-agent --register` takes, for an hour and once")
      .argument("<name>", "its name, for people")
      .option("--tags <tags>", "words that placement can ask for, comma-separated")
      .option("--team <team>", "id of the team that alone gets sandboxes on it")
      .addHelpText("after", examples("roost host add rack-7", "roost host add gpu-1 --tags gpu,fast")),
  ).action(async (name: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).addHost(context, name, options)),
  );

  withCommonOptions(
    host
      .command("token")
      .description("print a new registration token, for a host that did not register in time or lost its certificate")
      .argument(...anHost)
      .addHelpText("after", examples("roost host token rack-7")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).createHostToken(context, reference)),
  );

  withCommonOptions(
    host
      .command("tag")
      .description("replace a host's tags, by none if none are given")
      .argument(...anHost)
      .argument("[tags...]", "words that placement can ask for")
      .addHelpText("after", examples("roost host tag rack-7 ssd zone=a")),
  ).action(async (reference: string, tags: string[], options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).tagHost(context, reference, tags)),
  );

  withCommonOptions(
    host
      .command("rename")
      .description("give a host another name")
      .argument(...anHost)
      .argument("<name>", "its new name")
      .addHelpText("after", examples("roost host rename rack-7 gpu-1")),
  ).action(async (reference: string, name: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).updateHost(context, reference, { name })),
  );

  withCommonOptions(
    host
      .command("assign")
      .description("give a host new sandboxes of one team only, or of all teams if none is given; those on it stay")
      .argument(...anHost)
      .argument("[team]", "id of the team")
      .addHelpText("after", examples("roost host assign rack-7 g0123456789abcdefghij", "roost host assign rack-7")),
  ).action(async (reference: string, team: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).updateHost(context, reference, { team_id: team ?? null })),
  );

  for (const [name, description] of [
    ["cordon", "give a host no new sandboxes; those on it go on"],
    ["uncordon", "give a host new sandboxes again; ends a drain"],
  ] as const) {
    withCommonOptions(
      host
        .command(name)
        .description(description)
        .argument(...anHost)
        .addHelpText("after", examples(`roost host ${name} rack-7`)),
    ).action(async (reference: string, options) =>
      run(options, async (context) => (await import("../commands/hosts.ts")).moveHost(context, reference, name)),
    );
  }

  withCommonOptions(
    host
      .command("drain")
      .description("give a host no new sandboxes, and pause those that run there, or move all to other hosts; waits until that is done")
      .argument(...anHost)
      .addOption(
        new Option(
          "--mode <mode>",
          "what becomes of sandboxes: those that run are paused, or left until they end; or all are moved, and go on elsewhere",
        )
          .choices(drainModes)
          .argParser(parseDrainMode)
          .default("pause"),
      )
      .option("--no-wait", "do not wait for the end")
      .addHelpText(
        "after",
        examples("roost host drain rack-7", "roost host drain rack-7 --mode move", "roost host drain rack-7 --mode wait --no-wait"),
      ),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).drainHost(context, reference, options)),
  );

  withCommonOptions(
    host
      .command("rm")
      .description("remove a host: its certificate stops working at once")
      .argument(...anHost)
      .option("--preview", "only show what would be lost")
      .option("--force", "also when sandboxes are on it: they are lost")
      .addHelpText("after", examples("roost host rm rack-7 --preview", "roost host rm rack-7")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/hosts.ts")).removeHost(context, reference, options)),
  );
}
