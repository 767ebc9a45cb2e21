import type { Command } from "commander";

import { examples, withCommonOptions, type ProgramEnvironment } from "./define.ts";

/** The token of private ports; where they are, and who may reach them, says `roost port`. */
export function defineTrafficTokenCommand(program: Command, { run }: ProgramEnvironment): void {
  withCommonOptions(
    program
      .command("traffic-token")
      .helpGroup("Inside a sandbox:")
      .description("the token that opens the private ports of a sandbox to programs")
      .argument("<id>", "sandbox id or its beginning")
      .option("--rotate", "make another one: this one and all signed URLs open nothing any more")
      .addHelpText(
        "after",
        examples(
          "roost traffic-token i3x",
          'curl -H "roost-traffic-token: $(roost traffic-token i3x)" "$(roost port i3x 8080 --json | jq -r .url)"',
          "roost traffic-token i3x --rotate",
        ),
      ),
  ).action(async (id: string, options) =>
    run(options, async (context) => (await import("../commands/traffic-token.ts")).trafficToken(context, id, options)),
  );
}
