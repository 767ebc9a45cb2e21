import { Option, type Command } from "commander";

import { parseEnvironment, parseInteger, parseMemory, parsePair, parseRepeated, parseSeconds } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";
import { withNetworkOptions } from "./network-commands.ts";

const group = "Sandboxes:";
/** As the contract has them (a test compares): the contract itself would double the time that help takes. */
export const metricsRangeNames = ["5m", "10m", "1h", "2h", "6h", "12h", "24h", "7d", "30d"];
export const sandboxStateNames = ["creating", "running", "pausing", "paused", "resuming", "snapshotting", "stopping", "stopped", "failed"];

/** What a new sandbox is like; shared by `create` and `run`. */
export function withCreateOptions(command: Command): Command {
  const sized = command
    .option("-t, --template <name>", "what the sandbox starts from (default: base)")
    .option("--vcpus <count>", "virtual CPUs (default: the template's, else 1)", parseInteger)
    .option("-m, --memory <size>", "memory: MiB, or with m or g (default: the template's, else 512m)", parseMemory)
    .option("--idle-timeout <time>", "pause it after this long without activity; 0 = never (default: 30m)", parseSeconds)
    .option("--metadata <key=value>", "label it; repeatable", parsePair)
    .option("--host-tag <tag>", "only on a host that has this tag, such as accelerator=kvm; repeatable: all of them", parseRepeated);
  return withNetworkOptions(sized);
}

export function defineSandboxCommands(program: Command, { io, run }: ProgramEnvironment): void {
  withCommonOptions(
    withCreateOptions(program.command("create").helpGroup(group).description("create a sandbox and print its id"))
      .option("-e, --env <name=value>", "environment of everything in it; repeatable", parseEnvironment(io.environment))
      .option("--auto-resume", "when it is paused, resume it for whatever needs it")
      .option("--checkpoint-interval <time>", "save it every so often while it runs, such as 5m; 0 = never", parseSeconds)
      .addHelpText(
        "after",
        examples(
          "roost create",
          "roost create --idle-timeout 5m --auto-resume",
          "roost create --no-internet --allow pypi.org",
          "ID=$(roost create --memory 2g --vcpus 2 --metadata team=research)",
        ),
      ),
  ).action(async (options) => run(options, async (context) => (await import("../commands/create.ts")).create(context, options)));

  withCommonOptions(
    program
      .command("ls")
      .alias("list")
      .helpGroup(group)
      .description("list sandboxes, newest first")
      .option("-a, --all", "also those that have stopped")
      .addOption(new Option("--state <state>", "only those in this state").choices(sandboxStateNames))
      .option("-t, --template <name>", "only those of this template")
      .option("--metadata <key=value>", "only those with this label; repeatable", parsePair)
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost ls", "roost ls --metadata team=research", "roost ls -q | xargs roost kill")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/list.ts")).list(context, options)));

  withCommonOptions(
    program
      .command("get")
      .helpGroup(group)
      .description("show one sandbox")
      .argument("<id>", "sandbox id or its beginning")
      .addHelpText("after", examples("roost get i3x", "roost get i3x --json | jq .state")),
  ).action(async (id: string, options) => run(options, async (context) => (await import("../commands/get.ts")).get(context, id)));

  withCommonOptions(
    program
      .command("timeout")
      .helpGroup(group)
      .description("change how long a sandbox may be idle before it is paused")
      .argument("<id>", "sandbox id or its beginning")
      .argument("<time>", "such as 90s, 5m, 2h; 0 = never", parseSeconds)
      .addHelpText("after", examples("roost timeout i3x 2h")),
  ).action(async (id: string, seconds: number, options) =>
    run(options, async (context) => (await import("../commands/timeout.ts")).timeout(context, id, seconds)),
  );

  withCommonOptions(
    program
      .command("kill")
      .helpGroup(group)
      .description("end sandboxes and delete all that is saved of them, or signal one process")
      .argument("<id...>", "sandbox ids or their beginnings")
      .option("-p, --process <pid|tag>", "signal this process instead of ending the sandbox")
      .addOption(new Option("-s, --signal <signal>", "with --process").choices(["SIGKILL", "SIGTERM"]).default("SIGKILL"))
      .addHelpText("after", examples("roost kill i3x i4y", "roost kill i3x --process server --signal SIGTERM")),
  ).action(async (ids: string[], options) =>
    run(options, async (context) => (await import("../commands/kill.ts")).kill(context, ids, options)),
  );

  withCommonOptions(
    program
      .command("metrics")
      .helpGroup(group)
      .description("CPU, memory and disk of a sandbox over time")
      .argument("<id>", "sandbox id or its beginning")
      .addOption(new Option("--range <range>", "how far back").choices(metricsRangeNames).default("10m"))
      .addHelpText("after", examples("roost metrics i3x --range 1h")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/metrics.ts")).metrics(context, id, options)),
  );

  withCommonOptions(
    program
      .command("logs")
      .helpGroup(group)
      .description("the console of a sandbox: its kernel's and guest agent's messages")
      .argument("<id>", "sandbox id or its beginning")
      .option("-f, --follow", "go on as more comes")
      .option("--bytes <count>", "at most this many of the newest bytes (default: 64 KiB)", parseInteger)
      .addHelpText("after", examples("roost logs i3x", "roost logs -f i3x")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/logs.ts")).logs(context, id, options)),
  );
}
