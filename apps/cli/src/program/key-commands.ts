import type { Command } from "commander";

import { parseSeconds } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

const together = (text: string, before: readonly string[] = []): string[] => [...before, ...text.split(/[\s,]+/).filter(Boolean)];

/** API keys of the team. */
export function defineKeyCommands(program: Command, { run }: ProgramEnvironment): void {
  const key = program
    .command("key")
    .helpGroup("Access:")
    .description("API keys of your team")
    .helpCommand(false)
    .addHelpText(
      "after",
      examples("roost key create ci --scopes sandboxes:read,sandboxes:write --expires 90d", "roost key ls", "roost key rm ci"),
    );

  withCommonOptions(
    key
      .command("create")
      .description("make an API key, and print it: it is shown only then")
      .argument("<label>", "its name, for people: who or what uses it")
      .option("--scopes <scopes>", "what it may do; repeatable, or several with commas (default: what members may)", together)
      .option("--expires <time>", "when it stops working: 1h, 90d (default: never)", parseSeconds)
      .addHelpText(
        "after",
        examples(
          "roost key create laptop",
          "roost key create dashboard --scopes sandboxes:read,events:read",
          "roost key create demo --expires 1d --json",
        ),
      ),
  ).action(async (name: string, options) =>
    run(options, async (context) => (await import("../commands/keys.ts")).createKey(context, name, options)),
  );

  withCommonOptions(
    key
      .command("ls")
      .alias("list")
      .description("list API keys, oldest first")
      .option("-q, --quiet", "only ids")
      .addHelpText("after", examples("roost key ls", "roost key ls --json | jq '.[].last_used_at'")),
  ).action(async (options) => run(options, async (context) => (await import("../commands/keys.ts")).listKeys(context, options)));

  withCommonOptions(
    key
      .command("rm")
      .description("revoke API keys: they stop working within a second, and what they have open is cut off")
      .argument("<key...>", "their ids, beginnings of ids, or names")
      .addHelpText("after", examples("roost key rm ci", "roost key rm k3x")),
  ).action(async (references: string[], options) =>
    run(options, async (context) => (await import("../commands/keys.ts")).removeKeys(context, references)),
  );
}
