import { RootCommand, script } from "@bomb.sh/tab";
import { sandboxStates } from "@roost/contract";
import type { Command, Option } from "commander";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { bashScript } from "../output/bash-completion.ts";

/** Time that asking the platform for ids may take in `ms`: somebody is waiting at a prompt. */
const askTimeoutMs = 1_000;

export async function completion(context: CommandContext, shell: string): Promise<number> {
  if (shell === "bash") await context.print(bashScript);
  else script(shell, "roost", "roost");
  return exitCodes.ok;
}

/** Answers a completion script: candidates for the last of `words`, one a line, then a directive for the script. */
export async function complete(context: CommandContext, program: Command, words: readonly string[]): Promise<number> {
  const isInCommand = words.length > 1;
  const wantsIds = isInCommand && program.commands.some((command) => command.name() === words[0] && takesSandbox(command));
  const ids = wantsIds ? await sandboxIds(context) : [];
  completionTree(program, ids).parse([...words]);
  return exitCodes.ok;
}

function takesSandbox(command: Command): boolean {
  return command.name() === "cp" || command.registeredArguments[0]?.name() === "id";
}

function completionTree(program: Command, ids: readonly string[]): RootCommand {
  const root = new RootCommand();
  for (const command of program.createHelp().visibleCommands(program)) {
    const node = root.command(command.name(), command.description());
    for (const option of command.options) addOption(node, option);
    for (const argument of command.registeredArguments) {
      const choices = argument.argChoices ?? offersOf(command, argument.name(), ids);
      node.argument(argument.name(), (offer) => choices.forEach((choice) => offer(choice, "")), argument.variadic);
    }
  }
  return root;
}

function offersOf(command: Command, argument: string, ids: readonly string[]): readonly string[] {
  if (argument === "id") return ids;
  return command.name() === "cp" ? ids.map((id) => `${id}:`) : [];
}

function addOption(node: ReturnType<RootCommand["command"]>, option: Option): void {
  const name = option.long?.replace(/^--/, "");
  if (name === undefined || option.hidden) return;
  const alias = option.short?.replace(/^-/, "");
  if (!option.required && !option.optional) node.option(name, option.description, alias);
  else node.option(name, option.description, (offer) => option.argChoices?.forEach((choice) => offer(choice, "")), alias);
}

/** No platform, no ids: completion stays silent rather than print errors at the prompt. */
async function sandboxIds(context: CommandContext): Promise<string[]> {
  try {
    const client = await context.client();
    const states = sandboxStates.filter((state) => state !== "stopped");
    const page = await client.sandboxes.listPage({ limit: 200, timeoutMs: askTimeoutMs, states });
    return page.sandboxes.map((sandbox) => sandbox.id);
  } catch {
    return [];
  }
}
