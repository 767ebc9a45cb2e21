import { statsRanges, usageGroups, type StatsRange, type UsageGroup } from "@roost/contract";
import { Option, type Command } from "commander";

import { parseInteger } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Books:";

/** What is written down: who did what, and what was used. */
export function defineAuditCommands(program: Command, { run }: ProgramEnvironment): void {
  const audit = program
    .command("audit")
    .helpGroup(group)
    .description("who did what in your team")
    .helpCommand(false)
    .addHelpText("after", examples("roost audit ls --limit 20", "roost audit verify"));

  withCommonOptions(
    audit
      .command("ls")
      .alias("list")
      .description("list what was done, newest first")
      .option("--limit <count>", "how many at most", parseInteger, 50)
      .option("--actor <id>", "only what this key or user did")
      .option("--action <action>", "only this, such as sandbox.delete")
      .option("--resource <id>", "only what was done to this")
      .option("--failed", "only what was refused or failed")
      .option("--platform", "what the platform's admins, its hosts and logins did (for its admins)")
      .addHelpText("after", examples("roost audit ls --failed", "roost audit ls --resource $ID --json")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/audit.ts")).listAudit(context, options)));

  withCommonOptions(
    audit
      .command("verify")
      .description("check that the log is what was written: nothing changed, put in, taken out or cut off")
      .option("--known <number:hash>", "begin after this entry, which must have this hash: finds a log that was written anew")
      .option("--platform", "the platform's log (for its admins)")
      .addHelpText("after", examples("roost audit verify", "roost audit verify --platform --json")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/audit.ts")).verifyAudit(context, options)));

  withCommonOptions(
    program
      .command("usage")
      .helpGroup(group)
      .description("what your team's sandboxes used")
      .option("--from <time>", "a day or an instant, such as 2026-03-01 (default: 30 days ago)")
      .option("--to <time>", "up to this, which is not in it (default: now)")
      .addOption(new Option("--by <group>", "how to divide it").choices(usageGroups).default("day"))
      .addHelpText("after", examples("roost usage", "roost usage --from 2026-03-01 --to 2026-04-01 --by template --json")),
  ).action(async (options) =>
    run(options, async (context) => (await import("../commands/usage.ts")).usage(context, { ...options, by: options.by as UsageGroup })),
  );

  withCommonOptions(
    program
      .command("stats")
      .helpGroup(group)
      .description("how many sandboxes run, and with what; now and over time")
      .addOption(new Option("--range <range>", "how far back").choices(Object.keys(statsRanges)).default("1h"))
      .addHelpText("after", examples("roost stats", "roost stats --range 30d")),
  ).action(async (options) =>
    run(options, async (context) => (await import("../commands/usage.ts")).stats(context, { range: options.range as StatsRange })),
  );
}
