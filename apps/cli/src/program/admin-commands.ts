import type { Command } from "commander";

import type { QuotaChange, UserChange } from "../commands/admin.ts";
import { parseInteger, parseMemory } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

/** All users and teams, for admins of the platform. */
export function defineAdminCommands(program: Command, { run }: ProgramEnvironment): void {
  const admin = program
    .command("admin")
    .helpGroup("Access:")
    .description("all users and teams of the platform, for its admins")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples("roost admin users", "roost admin quota research --sandboxes 20 --memory 64g", "roost admin suspend eve@example.org"),
    );

  withCommonOptions(
    admin
      .command("users")
      .description("list all users, newest first")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost admin users", "roost admin users --json | jq '.[] | select(.is_admin)'")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/admin.ts")).listUsers(context, options)));

  withCommonOptions(
    admin
      .command("teams")
      .description("list all teams, newest first")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost admin teams")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/admin.ts")).listAllTeams(context, options)));

  withCommonOptions(
    admin
      .command("quota")
      .description("show what a team may have at once, or change it; `none` takes a limit away")
      .argument("<team>", "its id, slug or name")
      .option("--sandboxes <count>", "sandboxes that have not ended", orNone(parseInteger))
      .option("--vcpus <count>", "virtual CPUs of those that run, together", orNone(parseInteger))
      .option("--memory <size>", "memory of those that run, together, such as 64g", orNone(parseMemory))
      .option("--disk <size>", "disks of those that have not ended, together, such as 500g", orNone(parseMemory))
      .option("--builds <count>", "builds that wait or run", orNone(parseInteger))
      .option("--requests <count>", "requests to the API in a minute", orNone(parseInteger))
      .addHelpText("after", examples("roost admin quota research", "roost admin quota research --sandboxes 20 --vcpus none")),
  ).action(async (reference: string, options: QuotaOptions) =>
    run(options, async (context) => (await import("../commands/admin.ts")).teamQuota(context, reference, changeIn(options))),
  );

  const userCommand = (change: UserChange, description: string) =>
    withCommonOptions(
      admin
        .command(change)
        .description(description)
        .argument("<user>", "their id or e-mail address")
        .addHelpText("after", examples(`roost admin ${change} eve@example.org`)),
    ).action(async (reference: string, options) =>
      run(options, async (context) => (await import("../commands/admin.ts")).changeUser(context, reference, change)),
    );
  userCommand("suspend", "lock somebody out: ends their sessions, and the API keys that they made");
  userCommand("activate", "let somebody in again who was suspended");
  userCommand("grant", "make somebody an admin of the platform");
  userCommand("revoke", "make somebody no admin of the platform any more");
}

interface QuotaOptions {
  readonly json?: boolean;
  readonly url?: string;
  readonly dir?: string;
  readonly sandboxes?: Limit;
  readonly vcpus?: Limit;
  readonly memory?: Limit;
  readonly disk?: Limit;
  readonly builds?: Limit;
  readonly requests?: Limit;
}

/** `none` is kept as it is: commander takes null for an option without a value */
type Limit = number | "none";
const orNone =
  (parse: (text: string) => number) =>
  (text: string): Limit =>
    text === "none" ? text : parse(text);

function changeIn({ sandboxes, vcpus, memory, disk, builds, requests }: QuotaOptions): QuotaChange {
  const all = { sandboxes, vcpus, memory_mb: memory, disk_mb: disk, builds_at_once: builds, requests_per_minute: requests };
  const given = Object.entries(all).filter(([, limit]) => limit !== undefined);
  return Object.fromEntries(given.map(([name, limit]) => [name, limit === "none" ? null : limit]));
}
