import { Argument, Option, type Command } from "commander";

import { examples, withCommonOptions, withLocalOptions, type ProgramEnvironment } from "./define.ts";
import { withSettings } from "./up-options.ts";

const group = "Platform:";

/** `exportShells`, repeated: help does not load what commands do. */
export const exportShellNames = ["sh", "fish"] as const;

export function definePlatformCommands(program: Command, { run, settings }: ProgramEnvironment): void {
  withLocalOptions(
    withSettings(
      program
        .command("up")
        .helpGroup(group)
        .description("start the platform on this machine (needs root)")
        .option("-d, --detach", "start it in the background and come back when it answers"),
      settings,
    ).addHelpText("after", examples("roost up", "roost up --detach", "roost up --port 8080", "ROOST_DIR=/srv/roost roost up")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/up.ts")).up(context, options, settings)));

  withLocalOptions(
    withSettings(
      program
        .command("control-plane")
        .helpGroup(group)
        .description("serve the API and the records of a platform whose hosts are other machines, with PostgreSQL"),
      settings,
    ).addHelpText("after", examples("ROOST_DATABASE_URL=postgres://roost@db/roost ROOST_SECRET_KEY=… roost control-plane")),
  ).action(async (options) =>
    run(options, async (context) => (await import("../commands/control-plane.ts")).controlPlane(context, options, settings)),
  );

  withLocalOptions(
    withSettings(
      program
        .command("host-agent")
        .helpGroup(group)
        .description("run sandboxes on this machine for a control plane (needs root); --register makes it one of its hosts")
        .option("--register <token>", "token that `roost host add` printed; needed once (ROOST_REGISTER)"),
      settings,
    ).addHelpText(
      "after",
      examples(
        "roost host-agent --register $TOKEN --control-plane https://roost.example.org:7071 --address 10.0.0.7:7072",
        "roost host-agent",
      ),
    ),
  ).action(async (options) =>
    run(options, async (context) => (await import("../commands/host-agent.ts")).hostAgent(context, options, settings)),
  );

  withLocalOptions(
    program
      .command("down")
      .helpGroup(group)
      .description("stop the platform; sandboxes go on and are found again by the next `roost up`")
      .option("--pause", "pause all sandboxes first, with what runs in them")
      .option("--stop-sandboxes", "end all sandboxes that run, too; paused ones stay")
      .addHelpText("after", examples("roost down", "roost down --pause", "roost down --stop-sandboxes")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/down.ts")).down(context, options)));

  withCommonOptions(
    program
      .command("status")
      .helpGroup(group)
      .description("is the platform up, and what does it run on")
      .addHelpText("after", examples("roost status", "roost status --json | jq .healthy")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/status.ts")).status(context)));

  withCommonOptions(
    program
      .command("e2b-env")
      .helpGroup(group)
      .description("print what makes the E2B SDK and CLI use the platform, for your shell to evaluate")
      .addOption(new Option("--shell <shell>", "whose syntax; sh is also for bash and zsh").choices(exportShellNames).default("sh"))
      .addHelpText("after", examples('eval "$(roost e2b-env)"', "roost e2b-env --shell fish | source", "roost e2b-env --json")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/e2b-env.ts")).e2bEnv(context, options)));

  const tls = program.command("tls").helpGroup(group).description("the local certificate authority that `roost up --tls` makes");
  withLocalOptions(
    tls
      .command("trust")
      .description("make programs and browsers of this machine trust it (needs root)")
      .addHelpText("after", examples("sudo roost tls trust")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/tls.ts")).trustAuthority(context)));
  withLocalOptions(tls.command("distrust").description("take that back (needs root)")).action(async (options) =>
    run(options, async (context) => (await import("../commands/tls.ts")).distrustAuthority(context)),
  );
  withLocalOptions(
    tls
      .command("authority")
      .description("print its certificate, for other machines and programs")
      .addHelpText("after", examples("roost tls authority > roost.pem && NODE_EXTRA_CA_CERTS=roost.pem node agent.js")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/tls.ts")).printAuthority(context)));

  withLocalOptions(
    program
      .command("doctor")
      .helpGroup(group)
      .description("check whether this machine can run sandboxes, and say what to do when not")
      .addHelpText("after", examples("sudo roost doctor")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/doctor.ts")).doctor(context)));

  withLocalOptions(
    program
      .command("inspect")
      .helpGroup(group)
      .description("show what is saved of a sandbox or snapshot on this machine, and verify every byte of it (needs root)")
      .argument("<target>", "a sandbox or snapshot, or the path of its image folder or of one generation; :NUMBER chooses a generation")
      .addHelpText("after", examples("sudo roost inspect $ID", "sudo roost inspect $ID:3 --json", "sudo roost inspect trained")),
  ).action(async (target: string, options) =>
    run(options, async (context) => (await import("../commands/inspect.ts")).inspect(context, target)),
  );

  program
    .command("completion")
    .helpGroup(group)
    .description("print a completion script for your shell")
    .addArgument(new Argument("<shell>", "your shell").choices(["bash", "zsh", "fish"]))
    .addHelpText("after", examples("source <(roost completion bash)", "roost completion zsh > ~/.zsh/completions/_roost"))
    .action(async (shell: string) => run({}, async (context) => (await import("../commands/completion.ts")).completion(context, shell)));

  // What the completion scripts ask; bash's words end with the one being typed.
  program
    .command("complete", { hidden: true })
    .argument("[words...]")
    .allowUnknownOption()
    .passThroughOptions()
    .action(async (words: string[]) =>
      run({}, async (context) => (await import("../commands/completion.ts")).complete(context, program, words)),
    );
}
