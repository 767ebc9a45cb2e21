import type { Command } from "commander";

import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const group = "Access:";
const stdinText = "read the password from standard input";

/** Signing in and out, and one's account. */
export function defineAccountCommands(program: Command, environment: ProgramEnvironment): void {
  const { run } = environment;
  withCommonOptions(
    program
      .command("login")
      .helpGroup(group)
      .description("sign in; later commands then act for you, until `roost logout`")
      .option("--email <address>", "of your account (default: it is asked for)")
      .option("--password-stdin", stdinText)
      .option("--github", "print a page that signs you in with GitHub, and wait for it")
      .addHelpText("after", examples("roost login --url https://roost.example.org", "roost login --github")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/login.ts")).login(context, options)));

  withCommonOptions(
    program
      .command("logout")
      .helpGroup(group)
      .description("sign out: ends the session, also on the platform")
      .addHelpText("after", examples("roost logout")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/login.ts")).logout(context)));

  withCommonOptions(
    program
      .command("whoami")
      .helpGroup(group)
      .description("who commands act for, for which team, and what they may")
      .addHelpText("after", examples("roost whoami", "roost whoami --json | jq .scopes")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/account.ts")).whoami(context)));

  const account = program
    .command("account")
    .helpGroup(group)
    .description("your account: sign up, passwords, sessions")
    .helpCommand(false)
    .addHelpText("after", examples("roost account signup --invitation 5c0f…", "roost account sessions", "roost account reset-password"));
  defineSignUpCommands(account, environment);
  definePasswordCommands(account, environment);
  defineSessionCommands(account, environment);
}

function defineSignUpCommands(account: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    account
      .command("signup")
      .description("make an account; where addresses are confirmed, a mail says how to go on")
      .option("--email <address>", "your address (default: it is asked for)")
      .option("--name <name>", "your name (default: it is asked for)")
      .option("--invitation <token>", "of the mail that asked you to join a team")
      .option("--setup-code <code>", "makes the first account the admin's; on the platform's own machine it is found in the state folder")
      .option("--password-stdin", stdinText)
      .addHelpText("after", examples("roost account signup --email ada@example.org --name Ada", "roost account signup --invitation 5c0f…")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/account.ts")).signUp(context, options)));

  withCommonOptions(
    account
      .command("confirm")
      .description("confirm the address of a sign-up, and sign in")
      .argument("<token>", "of the mail")
      .option("--password-stdin", stdinText)
      .addHelpText("after", examples("roost account confirm 5c0f…")),
  ).action(async (token: string, options) =>
    run(options, async (context) => (await import("../commands/account.ts")).confirm(context, token, options)),
  );

  withCommonOptions(
    account
      .command("accept")
      .description("join the team of an invitation, signed in with the address that it was sent to")
      .argument("<token>", "of the mail")
      .addHelpText("after", examples("roost account accept 5c0f…")),
  ).action(async (token: string, options) =>
    run(options, async (context) => (await import("../commands/teams.ts")).acceptInvitation(context, token)),
  );
}

function definePasswordCommands(account: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    account
      .command("password")
      .description("change your password; ends all your other sessions")
      .addHelpText("after", examples("roost account password")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/account.ts")).changePassword(context)));

  withCommonOptions(
    account
      .command("reset-password")
      .description("replace a forgotten password: ask for a mail, then use its token")
      .argument("[token]", "of the mail")
      .option("--email <address>", "of your account (default: it is asked for)")
      .option("--password-stdin", stdinText)
      .addHelpText("after", examples("roost account reset-password --email ada@example.org", "roost account reset-password 5c0f…")),
  ).action(async (token: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/account.ts")).resetPassword(context, token, options)),
  );
}

function defineSessionCommands(account: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    account
      .command("sessions")
      .description("list where you are signed in, newest first")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost account sessions")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/account.ts")).sessions(context, options)));

  withCommonOptions(
    account
      .command("revoke")
      .description("sign out elsewhere: sessions by their ids, or all but this one")
      .argument("[session...]", "ids of sessions (default: all others)")
      .addHelpText("after", examples("roost account revoke", "roost account revoke 3f2a…")),
  ).action(async (ids: string[], options) =>
    run(options, async (context) => (await import("../commands/account.ts")).revokeSessions(context, ids)),
  );
}
