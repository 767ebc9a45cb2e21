import type { Command } from "commander";

import { parseInteger, parsePair, parseSeconds } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Saving:";
const noMemory = ["--no-memory", "the disk alone, without what runs"] as const;

/** Saving sandboxes with their memory, and starting from what was saved. */
export function defineSavingCommands(program: Command, environment: ProgramEnvironment): void {
  const { run } = environment;

  withCommonOptions(
    program
      .command("pause")
      .helpGroup(group)
      .description("save sandboxes with what runs in them, and free what they hold")
      .argument("<id...>", "sandbox ids or their beginnings")
      .option(...noMemory)
      .addHelpText("after", examples("roost pause i3x", "roost ls -q --state running | xargs roost pause")),
  ).action(async (ids: string[], options) =>
    run(options, async (context) => (await import("../commands/pause.ts")).pause(context, ids, options)),
  );

  withCommonOptions(
    program
      .command("resume")
      .helpGroup(group)
      .description("start paused sandboxes where they were")
      .argument("<id...>", "sandbox ids or their beginnings")
      .option("--no-memory", "boot from the disk, whatever memory was saved")
      .option("--idle-timeout <time>", "a new idle timeout, such as 2h; 0 = never", parseSeconds)
      .addHelpText("after", examples("roost resume i3x", "roost resume i3x --no-memory")),
  ).action(async (ids: string[], options) =>
    run(options, async (context) => (await import("../commands/resume.ts")).resume(context, ids, options)),
  );

  withCommonOptions(
    program
      .command("fork")
      .helpGroup(group)
      .description("make sandboxes that go on where one is; prints their ids")
      .argument("<id>", "sandbox id or its beginning")
      .option("-n, --count <count>", "how many", parseInteger, 1)
      .option("--metadata <key=value>", "labels in place of the parent's; repeatable", parsePair)
      .addHelpText("after", examples("roost fork i3x", "roost fork i3x -n 4 --metadata try=2")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/fork.ts")).fork(context, id, options)),
  );

  defineGenerationCommands(program, environment);
  defineSnapshotCommands(program, environment);

  withCommonOptions(
    program
      .command("events")
      .helpGroup(group)
      .description("what happened, newest first: pauses, lost VMs, new images; or what happens")
      .argument("[id]", "only of this sandbox")
      .option("-n, --limit <count>", "how many", parseInteger, 50)
      .option("-f, --follow", "print what happens from now on, as it happens; as JSON one event per line")
      .option("--after <position>", "with --follow: first what came after this position of an event", parseInteger)
      .addHelpText(
        "after",
        examples("roost events", "roost events i3x --json | jq '.[0].message'", "roost events --follow --json | jq -r .kind"),
      ),
  ).action(async (id: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/events.ts")).events(context, id, options)),
  );
}

function defineGenerationCommands(program: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    program
      .command("checkpoint")
      .helpGroup(group)
      .description("save a running sandbox, which goes on; prints the generation's number")
      .argument("<id>", "sandbox id or its beginning")
      .addHelpText("after", examples("roost checkpoint i3x")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/generations.ts")).checkpoint(context, id)),
  );

  withCommonOptions(
    program
      .command("generations")
      .helpGroup(group)
      .description("list what is saved of a sandbox, newest first; * is what a resume uses")
      .argument("<id>", "sandbox id or its beginning")
      .addHelpText("after", examples("roost generations i3x")),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/generations.ts")).generations(context, id)),
  );

  withCommonOptions(
    program
      .command("rollback")
      .helpGroup(group)
      .description("take a sandbox back to a generation; what happened since is gone")
      .argument("<id>", "sandbox id or its beginning")
      .argument("<generation>", "its number, as `roost generations` lists it", parseInteger)
      .addHelpText("after", examples("roost rollback i3x 3")),
  ).action(async (id: string, generation: number, options) =>
    run(options, async (context) => (await import("../commands/generations.ts")).rollback(context, id, generation)),
  );
}

function defineSnapshotCommands(program: Command, { run }: ProgramEnvironment): void {
  const snapshot = program
    .command("snapshot")
    .helpGroup(group)
    .description("templates made from sandboxes")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples("roost snapshot create i3x trained", "roost create --template trained", "roost snapshot ls", "roost snapshot rm trained"),
    );

  withCommonOptions(
    snapshot
      .command("create")
      .description("make a template from a sandbox, which goes on or stays paused")
      .argument("<id>", "sandbox id or its beginning")
      .argument("<name>", "its name; sandboxes are created from it with --template")
      .option(...noMemory)
      .addHelpText("after", examples("roost snapshot create i3x trained")),
  ).action(async (id: string, name: string, options) =>
    run(options, async (context) => (await import("../commands/snapshots.ts")).createSnapshot(context, id, name, options)),
  );

  withCommonOptions(
    snapshot
      .command("ls")
      .alias("list")
      .description("list snapshots")
      .option("-q, --quiet", "only names")
      .addHelpText("after", examples("roost snapshot ls")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/snapshots.ts")).listSnapshots(context, options)));

  withCommonOptions(
    snapshot
      .command("rm")
      .description("delete snapshots that no sandbox uses")
      .argument("<name...>", "names of snapshots")
      .addHelpText("after", examples("roost snapshot rm trained")),
  ).action(async (names: string[], options) =>
    run(options, async (context) => (await import("../commands/snapshots.ts")).removeSnapshots(context, names)),
  );
}
