import type { TeamQuota } from "@roost/contract";
import { RoostError, type AdminTeam, type AdminUser, type RoostClient } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatAgo, formatMemory } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatFields, formatTable } from "../output/table.ts";

/** What admins of the platform do about all users and teams. */

interface ListOptions {
  readonly quiet?: boolean;
}

export async function listUsers(context: CommandContext, options: ListOptions): Promise<number> {
  const users = await collect((await context.client()).admin.users({ signal: context.signal }));
  if (options.quiet === true) for (const { id } of users) await context.print(id);
  else if (context.isJson) await context.printJson(users);
  else if (users.length === 0) await context.note("nobody has signed up yet; `roost account signup` makes the first admin");
  else await context.print(formatUsers(context, users));
  return exitCodes.ok;
}

function formatUsers({ colors }: CommandContext, users: readonly AdminUser[]): string {
  const rows = users.map((user) => [
    user.id,
    printable(user.name),
    printable(user.email),
    user.is_active ? (user.is_admin ? "admin" : "") : colors.red("suspended"),
    String(user.team_count),
    user.last_active_at === null ? "" : formatAgo(user.last_active_at),
    formatAgo(user.created_at),
  ]);
  return formatTable(colors, ["ID", "NAME", "E-MAIL", "", "TEAMS", "USED", "SIGNED UP"], rows);
}

export async function listAllTeams(context: CommandContext, options: ListOptions): Promise<number> {
  const teams = await collect((await context.client()).admin.teams({ signal: context.signal }));
  if (options.quiet === true) for (const { id } of teams) await context.print(id);
  else if (context.isJson) await context.printJson(teams);
  else await context.print(formatAllTeams(context, teams));
  return exitCodes.ok;
}

function formatAllTeams({ colors }: CommandContext, teams: readonly AdminTeam[]): string {
  const rows = teams.map((team) => [
    team.id,
    printable(team.name),
    team.slug,
    printable(team.owners.join(" ")),
    String(team.member_count),
    team.quota.sandboxes === null ? String(team.sandbox_count) : `${team.sandbox_count}/${team.quota.sandboxes}`,
    Object.values(team.quota).some((limit) => limit !== null) ? "limited" : "",
    formatAgo(team.created_at),
  ]);
  return formatTable(colors, ["ID", "NAME", "SLUG", "OWNERS", "MEMBERS", "SANDBOXES", "QUOTA", "CREATED"], rows);
}

/** Of each limit that is to change: a number, or null for none. */
export type QuotaChange = { readonly [Name in keyof TeamQuota]?: number | null };

/** Without a change, shows what the team may. */
export async function teamQuota(context: CommandContext, reference: string, change: QuotaChange): Promise<number> {
  const client = await context.client();
  const found = await findTeam(client, reference, context.signal);
  const isChanged = Object.keys(change).length > 0;
  const team = isChanged ? await client.admin.setQuota(found.id, { ...found.quota, ...change }, { signal: context.signal }) : found;
  if (context.isJson) await context.printJson(team);
  else await context.print(formatFields(context.colors, quotaFields(team)));
  return exitCodes.ok;
}

function quotaFields({ id, name, quota }: AdminTeam): [string, string][] {
  const shown = (limit: number | null, format: (value: number) => string = String) => (limit === null ? "unlimited" : format(limit));
  return [
    ["team", `${printable(name)} (${id})`],
    ["sandboxes", shown(quota.sandboxes)],
    ["vCPUs", shown(quota.vcpus)],
    ["memory", shown(quota.memory_mb, formatMemory)],
    ["disk", shown(quota.disk_mb, formatMemory)],
    ["builds at once", shown(quota.builds_at_once)],
    ["requests a minute", shown(quota.requests_per_minute)],
  ];
}

/** What is done to a user, and what is said of it then */
const userChanges = {
  suspend: {
    act: async (client, id, options) => client.admin.deactivate(id, options),
    told: "cannot sign in any more; their sessions and API keys have ended",
  },
  activate: {
    act: async (client, id, options) => client.admin.activate(id, options),
    told: "can sign in again; API keys that were revoked stay revoked",
  },
  grant: { act: async (client, id, options) => client.admin.setAdmin(id, true, options), told: "is an admin of the platform now" },
  revoke: { act: async (client, id, options) => client.admin.setAdmin(id, false, options), told: "is no admin of the platform any more" },
} as const satisfies Record<
  string,
  { readonly told: string; act(client: RoostClient, id: string, options: { readonly signal: AbortSignal }): Promise<AdminUser> }
>;
export type UserChange = keyof typeof userChanges;

export async function changeUser(context: CommandContext, reference: string, change: UserChange): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const { act, told } = userChanges[change];
  const user = await act(client, await findUserId(client, reference, signal), { signal });
  if (context.isJson) await context.printJson(user);
  else await context.note(`${printable(user.email)} ${told}`);
  return exitCodes.ok;
}

async function collect<Item>(items: AsyncIterable<Item>): Promise<Item[]> {
  const all: Item[] = [];
  for await (const item of items) all.push(item);
  return all;
}

/** `reference`: an id, or an e-mail address. */
async function findUserId(client: RoostClient, reference: string, signal: AbortSignal): Promise<string> {
  for await (const { id, email } of client.admin.users({ signal })) {
    if (id === reference || email === reference.toLowerCase()) return id;
  }
  throw new RoostError("user_not_found", `there is no user ${JSON.stringify(reference)}`);
}

/** `reference`: an id, a slug, or a name that one team alone has. */
async function findTeam(client: RoostClient, reference: string, signal: AbortSignal): Promise<AdminTeam> {
  const named: AdminTeam[] = [];
  for await (const team of client.admin.teams({ signal })) {
    if (team.id === reference || team.slug === reference) return team;
    if (team.name === reference) named.push(team);
  }
  const [first, second] = named;
  if (first === undefined) throw new RoostError("team_not_found", `there is no team ${JSON.stringify(reference)}`);
  if (second === undefined) return first;
  throw new CliError(`${JSON.stringify(reference)} may be ${named.length} teams: ${named.map(({ id }) => id).join(", ")}`, {
    hint: "give the id of one",
  });
}
