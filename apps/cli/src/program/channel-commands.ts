import { Option, type Command } from "commander";

import { parseInteger, parsePair } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

/** As the contract has them (a test compares): the contract itself would double the time that help takes. */
export const channelKindNames = ["webhook", "slack", "discord", "telegram", "teams", "googlechat", "matrix"];
export const deliveryStateNames = ["pending", "delivered", "failed"];

const together = (text: string, before: readonly string[] = []): string[] => [...before, ...text.split(/[\s,]+/).filter(Boolean)];

/** Where the team's events are sent. */
export function defineChannelCommands(program: Command, environment: ProgramEnvironment): void {
  const channel = program
    .command("channel")
    .helpGroup("Platform:")
    .description("webhooks and chats that events are sent to")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples(
        "roost channel add ops https://hooks.example.org/roost",
        "roost channel test ops",
        "roost channel deliveries ops --state failed",
      ),
    );
  defineChanges(channel, environment);
  defineDeliveries(channel, environment);
}

function defineChanges(channel: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    channel
      .command("add")
      .description(
        "have events sent somewhere; of a webhook, prints the secret that its messages are signed with, which is shown only then",
      )
      .argument("<label>", "its name")
      .argument("[url]", "where to; not of telegram and matrix")
      .addOption(new Option("-k, --kind <kind>", "what is there").choices(channelKindNames).default("webhook"))
      .option(
        "--config <key=value>",
        "bot_token and chat_id of telegram; homeserver_url, access_token and room_id of matrix; repeatable",
        parsePair,
      )
      .option("--events <kinds>", "only these kinds, such as sandbox.failed or build.*; repeatable, or several with commas", together)
      .option("--platform-events", "also those that are no team's, such as host.unreachable (needs an admin's key)")
      .addHelpText(
        "after",
        examples(
          "roost channel add ops https://hooks.example.org/roost --events sandbox.failed,host.*",
          "roost channel add chat https://hooks.slack.com/services/… --kind slack",
          "roost channel add phone --kind telegram --config bot_token=1:abc --config chat_id=-100123",
        ),
      ),
  ).action(async (name: string, url: string | undefined, options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).addChannel(context, name, url, options)),
  );

  withCommonOptions(
    channel
      .command("ls")
      .alias("list")
      .description("list channels, and whether they take what they are sent")
      .option("-q, --quiet", "only names")
      .addHelpText("after", examples("roost channel ls")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/channels.ts")).listChannels(context, options)));

  withCommonOptions(
    channel
      .command("rm")
      .description("delete channels; what was on its way to them is not sent")
      .argument("<channel...>", "names or ids")
      .addHelpText("after", examples("roost channel rm ops")),
  ).action(async (references: string[], options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).removeChannels(context, references)),
  );

  withCommonOptions(
    channel
      .command("test")
      .description("send a message to a channel now; fails when it is not taken")
      .argument("<channel>", "its name or id")
      .addHelpText("after", examples("roost channel test ops")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).testChannel(context, reference)),
  );

  withCommonOptions(
    channel
      .command("rotate")
      .description("print a new secret for a webhook; for a day the old one is good, too")
      .argument("<channel>", "its name or id")
      .addHelpText("after", examples("roost channel rotate ops")),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).rotateChannel(context, reference)),
  );
}

function defineDeliveries(channel: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    channel
      .command("deliveries")
      .description("what was sent to a channel, is to be, or was given up; newest first")
      .argument("<channel>", "its name or id")
      .addOption(new Option("--state <state>", "only those in this state").choices(deliveryStateNames))
      .option("-n, --limit <count>", "how many", parseInteger, 50)
      .addHelpText(
        "after",
        examples("roost channel deliveries ops", "roost channel deliveries ops --state failed --json | jq -r '.[].id'"),
      ),
  ).action(async (reference: string, options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).listDeliveries(context, reference, options)),
  );

  withCommonOptions(
    channel
      .command("retry")
      .description("try deliveries again now that were given up, or wait")
      .argument("<channel>", "its name or id")
      .argument("<delivery...>", "their ids, as `roost channel deliveries` lists them")
      .addHelpText("after", examples("roost channel retry ops 6f1c2d94-3a1f-4a39-9d5e-7f2b1c0d9e8f")),
  ).action(async (reference: string, ids: string[], options) =>
    run(options, async (context) => (await import("../commands/channels.ts")).retryDeliveries(context, reference, ids)),
  );
}
