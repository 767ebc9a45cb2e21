import { Argument, type Command } from "commander";

import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

/** Teams and who is in them. */
export function defineTeamCommands(program: Command, { run }: ProgramEnvironment): void {
  const team = program
    .command("team")
    .helpGroup("Access:")
    .description("teams, and who is in yours")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples("roost team ls", "roost team switch research", "roost team invite bob@example.org", "roost team members"),
    );

  withCommonOptions(
    team
      .command("ls")
      .alias("list")
      .description("list your teams; * is the one that commands act for")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost team ls")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/teams.ts")).listTeams(context, options)));

  withCommonOptions(
    team
      .command("create")
      .description("make a team, and print its id")
      .argument("<label>", "its name, for people")
      .addHelpText("after", examples("roost team create Research")),
  ).action(async (name: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).createTeam(context, name)),
  );

  withCommonOptions(
    team
      .command("switch")
      .description("act for another team from now on; ROOST_TEAM names one for single commands")
      .argument("<team>", "its id, slug or name")
      .addHelpText("after", examples("roost team switch research", "ROOST_TEAM=default roost ls")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).switchTeam(context, reference)),
  );

  withCommonOptions(
    team
      .command("invite")
      .description("ask people by mail to join your team")
      .argument("<email...>", "their addresses")
      .option("--admin", "they may also run the team: keys, channels, members")
      .addHelpText("after", examples("roost team invite bob@example.org", "roost team invite --admin carol@example.org")),
  ).action(async (emails: string[], options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).invite(context, emails, options)),
  );

  withCommonOptions(
    team
      .command("members")
      .description("list who is in your team, and who is asked to be")
      .addHelpText("after", examples("roost team members")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/teams.ts")).members(context)));

  withCommonOptions(
    team
      .command("rm-member")
      .description("take people out of your team, with the API keys they made for it; or take invitations back")
      .argument("<member...>", "their ids or e-mail addresses")
      .addHelpText("after", examples("roost team rm-member bob@example.org")),
  ).action(async (references: string[], options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).removeMembers(context, references)),
  );

  withCommonOptions(
    team
      .command("rename")
      .description("give your team another name")
      .argument("<label>", "its name, for people")
      .addHelpText("after", examples('roost team rename "Applied research"')),
  ).action(async (name: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).renameTeam(context, name)),
  );

  withCommonOptions(
    team
      .command("role")
      .description("make a member of your team an admin of it, or no admin any more")
      .argument("<member>", "their id or e-mail address")
      .addArgument(new Argument("<role>", "what they are from now on").choices(["member", "admin"]))
      .addHelpText("after", examples("roost team role bob@example.org admin")),
  ).action(async (reference: string, role: "member" | "admin", options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).setRole(context, reference, role)),
  );
  defineOwnershipCommands(team, { run });
}

/** What ends one's part in a team, or the team. */
function defineOwnershipCommands(team: Command, { run }: Pick<ProgramEnvironment, "run">): void {
  withCommonOptions(
    team
      .command("transfer")
      .description("hand your team over: a member becomes its owner, and you an admin of it")
      .argument("<member>", "their id or e-mail address")
      .addHelpText("after", examples("roost team transfer bob@example.org")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).transferTeam(context, reference)),
  );

  withCommonOptions(
    team
      .command("leave")
      .description("be no member of your team any more; the API keys that you made for it end, too")
      .argument("<team>", "its id, slug or name")
      .addHelpText("after", examples("roost team leave research")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).leaveTeam(context, reference)),
  );

  withCommonOptions(
    team
      .command("rm")
      .alias("delete")
      .description("delete your team, with its templates, snapshots, channels and API keys; refused while it has sandboxes")
      .argument("<team>", "its id, slug or name")
      .addHelpText("after", examples("roost team rm research")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).removeTeam(context, reference)),
  );
}
