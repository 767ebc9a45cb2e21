import { RootCommand, script } from "@bomb.sh/tab";
import { sandboxStates, scopeNames } from "@roost/contract";
import type { RoostClient } from "@roost/sdk";
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

/** What the platform knows that may be on a command line. */
interface Offers {
  readonly sandboxIds: readonly string[];
  readonly snapshots: readonly string[];
  readonly templates: readonly string[];
  readonly builds: readonly string[];
  readonly keys: readonly string[];
  readonly channels: readonly string[];
  /** E-mail addresses: of the team's members, or of all users where an admin asks */
  readonly people: readonly string[];
  /** Slugs */
  readonly teams: readonly string[];
  readonly hosts: readonly string[];
  readonly hostTags: readonly string[];
}

/** Answers a completion script: candidates for the last of `words`, one a line, then a directive for the script. */
export async function complete(context: CommandContext, program: Command, words: readonly string[]): Promise<number> {
  const offers = await findOffers(context, commandOf(program, words.slice(0, -1)), words);
  completionTree(program, offers).parse([...words]);
  return exitCodes.ok;
}

/** The command that the words begin with; undefined while it is being typed. */
function commandOf(program: Command, words: readonly string[]): Command | undefined {
  let found: Command | undefined;
  for (const word of words) {
    const next = (found ?? program).commands.find((command) => command.name() === word || command.aliases().includes(word));
    if (next === undefined) break;
    found = next;
  }
  return found;
}

/** Asks the platform for no more than the word at the cursor may be. */
async function findOffers(context: CommandContext, command: Command | undefined, words: readonly string[]): Promise<Offers> {
  const [current = "", before = ""] = words.toReversed();
  const isOption = ["--template", "-t", "--from-template", "--name"].includes(before) || /^--(?:from-)?template=/.test(current);
  const first = command?.registeredArguments[0]?.name();
  return {
    sandboxIds: first === "id" || first === "target" || command?.name() === "cp" ? await sandboxIds(context) : [],
    snapshots:
      first === "name" || first === "target"
        ? await namesOf(context, async (client) => client.snapshots.list({ timeoutMs: askTimeoutMs }))
        : [],
    templates:
      isOption || first === "template" ? await namesOf(context, async (client) => client.templates.list({ timeoutMs: askTimeoutMs })) : [],
    builds: first === "build" || before === "--build" ? await buildIds(context) : [],
    keys: first === "key" ? await namesOf(context, async (client) => client.keys.list({ timeoutMs: askTimeoutMs })) : [],
    channels: first === "channel" ? await namesOf(context, async (client) => client.channels.list({ timeoutMs: askTimeoutMs })) : [],
    people: first === "member" || first === "user" ? await emailsOf(context, first) : [],
    teams: first === "team" ? await slugs(context) : [],
    hosts: first === "host" ? await namesOf(context, async (client) => client.hosts.list({ timeoutMs: askTimeoutMs })) : [],
    hostTags: before === "--host-tag" || current.startsWith("--host-tag=") ? await hostTags(context) : [],
  };
}

function completionTree(program: Command, offers: Offers): RootCommand {
  const root = new RootCommand();
  addCommands(root, program, "", offers);
  return root;
}

function addCommands(root: RootCommand, parent: Command, prefix: string, offers: Offers): void {
  for (const command of parent.createHelp().visibleCommands(parent)) {
    const node = root.command(prefix + command.name(), command.description());
    for (const option of command.options) addOption(node, option, offers);
    for (const argument of command.registeredArguments) {
      const choices = argument.argChoices ?? offersOf(command, argument.name(), offers);
      node.argument(argument.name(), (offer) => choices.forEach((choice) => offer(choice, "")), argument.variadic);
    }
    addCommands(root, command, `${prefix}${command.name()} `, offers);
  }
}

function offersOf(
  command: Command,
  argument: string,
  { sandboxIds, snapshots, templates, builds, keys, channels, people, teams, hosts }: Offers,
): readonly string[] {
  if (argument === "id") return sandboxIds;
  if (argument === "name") return snapshots;
  if (argument === "template") return templates;
  if (argument === "build") return builds;
  if (argument === "key") return keys;
  if (argument === "channel") return channels;
  if (argument === "host") return hosts;
  if (argument === "member" || argument === "user") return people;
  if (argument === "team") return teams;
  if (argument === "target") return [...sandboxIds, ...snapshots];
  return command.name() === "cp" ? sandboxIds.map((id) => `${id}:`) : [];
}

function addOption(node: ReturnType<RootCommand["command"]>, option: Option, { templates, builds, hostTags: tags }: Offers): void {
  const name = option.long?.replace(/^--/, "");
  if (name === undefined || option.hidden) return;
  const alias = option.short?.replace(/^-/, "");
  const isTemplate = name === "template" || name === "from-template" || name === "name";
  const offered = new Map<string, readonly string[]>(Object.entries({ build: builds, scopes: scopeNames, "host-tag": tags })).get(name);
  const choices = isTemplate ? templates : (offered ?? option.argChoices ?? []);
  if (!option.required && !option.optional) node.option(name, option.description, alias);
  else node.option(name, option.description, (offer) => choices.forEach((choice) => offer(choice, "")), alias);
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

async function buildIds(context: CommandContext): Promise<string[]> {
  try {
    const client = await context.client();
    return (await client.builds.listPage({ limit: 200, timeoutMs: askTimeoutMs })).builds.map(({ id }) => id);
  } catch {
    return []; // as for ids
  }
}

/** What hosts were given, and what each has by itself. */
async function hostTags(context: CommandContext): Promise<string[]> {
  try {
    const hosts = await (await context.client()).hosts.list({ timeoutMs: askTimeoutMs });
    const known = hosts.flatMap(({ tags, description }) =>
      description === null ? tags : [...tags, `accelerator=${description.accelerator}`, `arch=${description.arch}`],
    );
    return [...new Set(known)].sort();
  } catch {
    return []; // as for ids
  }
}

async function namesOf(
  context: CommandContext,
  ask: (client: RoostClient) => Promise<readonly { readonly name: string }[]>,
): Promise<string[]> {
  try {
    return (await ask(await context.client())).map(({ name }) => name);
  } catch {
    return []; // as for ids
  }
}

async function emailsOf(context: CommandContext, whose: "member" | "user"): Promise<string[]> {
  try {
    const client = await context.client();
    const options = { signal: AbortSignal.timeout(askTimeoutMs) };
    if (whose === "user") {
      const emails: string[] = [];
      for await (const { email } of client.admin.users(options)) emails.push(email);
      return emails;
    }
    const { team_id: teamId } = await client.account.get(options);
    return teamId === null ? [] : (await client.teams.members(teamId, options)).map(({ email }) => email);
  } catch {
    return []; // as for ids
  }
}

async function slugs(context: CommandContext): Promise<string[]> {
  try {
    return (await (await context.client()).teams.list({ timeoutMs: askTimeoutMs })).map(({ slug }) => slug);
  } catch {
    return []; // as for ids
  }
}
