import type { Command } from "commander";

import { parseInteger, parseRepeated } from "../parse/values.ts";
import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

/** What the guest may reach and use; shared by `create`, `run` and `network`. */
export function withNetworkOptions(command: Command): Command {
  return command
    .option("--no-internet", "deny all that --allow does not have")
    .option(
      "--allow <entry>",
      "address, block or domain (*.example.com) that it may reach in spite of what is denied; repeatable",
      parseRepeated,
    )
    .option("--deny <entry>", "address or block that it may not reach; repeatable", parseRepeated)
    .option(
      "--header <domain:name=source>",
      "set this header on its HTTPS requests to a domain, without its seeing the value: from env:VARIABLE or file:PATH; repeatable",
      parseRepeated,
    )
    .option("--out-mbit <rate>", "what it may send, in Mbit per second", parseInteger)
    .option("--in-mbit <rate>", "what it may receive, in Mbit per second", parseInteger)
    .option("--connections <count>", "connections that it may have open at once", parseInteger)
    .option("--connections-per-sec <count>", "connections that it may open in a second", parseInteger)
    .option("--policy <file>", "network policy as JSON, as the API has it, also with a proxy and header rules; - reads it from stdin");
}

export function defineNetworkCommands(program: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    withNetworkOptions(
      program
        .command("network")
        .helpGroup("Sandboxes:")
        .description("show what a sandbox may reach; with options, replace all of it, at once")
        .argument("<id>", "sandbox id or its beginning")
        .option("--open", "back to what every sandbox has: the internet"),
    ).addHelpText(
      "after",
      examples(
        "roost network i3x",
        "roost network i3x --no-internet --allow pypi.org --allow '*.pythonhosted.org'",
        "roost network i3x --deny 203.0.113.0/24 --out-mbit 10 --connections 100",
        "roost network i3x --header api.example.com:Authorization=env:API_AUTHORIZATION",
        "roost network i3x --policy - < policy.json",
      ),
    ),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/network.ts")).network(context, id, options)),
  );
}
