import { RoostError, type Member, type OwnTeam, type RoostClient } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";

export async function listTeams(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const teams = await client.teams.list({ signal: context.signal });
  const current = await currentTeamId(context, client).catch(() => undefined);
  if (options.quiet === true) for (const { id } of teams) await context.print(id);
  else if (context.isJson) await context.printJson(teams);
  else if (teams.length === 0) await context.note("you are in no team; `roost team create NAME` makes one");
  else await context.print(formatTeams(context, teams, current));
  return exitCodes.ok;
}

function formatTeams({ colors }: CommandContext, teams: readonly OwnTeam[], current: string | undefined): string {
  const rows = teams.map((team) => [
    team.id === current ? "*" : "",
    team.id,
    printable(team.name),
    team.slug,
    team.role ?? "key",
    formatAgo(team.created_at),
  ]);
  return formatTable(colors, ["", "ID", "NAME", "SLUG", "YOU ARE", "CREATED"], rows);
}

export async function createTeam(context: CommandContext, name: string): Promise<number> {
  const client = await context.client();
  const team = await client.teams.create(name, { signal: context.signal });
  if (context.isJson) await context.printJson(team);
  else {
    await context.print(team.id);
    await context.note(`\`roost team switch ${team.id}\` acts for it`);
  }
  return exitCodes.ok;
}

/** `reference`: an id, a slug, or a name that one team alone has. */
export async function switchTeam(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const teams = await client.teams.list({ signal: context.signal });
  const team = chooseTeam(teams, reference);
  const me = await client.account.switchTeam(team.id, { signal: context.signal });
  if (context.isJson) await context.printJson(me);
  else await context.note(`acting for team ${printable(team.name)} (${team.id}) as ${me.role ?? "nobody"}`);
  return exitCodes.ok;
}

function chooseTeam(teams: readonly OwnTeam[], reference: string): OwnTeam {
  const found = teams.find((team) => team.id === reference || team.slug === reference);
  const named = teams.filter((team) => team.name === reference);
  const [first, second] = found === undefined ? named : [found];
  if (first === undefined) throw new RoostError("team_not_found", `you are in no team ${JSON.stringify(reference)}`);
  if (second === undefined) return first;
  throw new CliError(`${JSON.stringify(reference)} may be ${named.length} teams: ${named.map(({ id }) => id).join(", ")}`, {
    hint: "give the id of one",
  });
}

export async function invite(context: CommandContext, emails: readonly string[], options: { readonly admin?: boolean }): Promise<number> {
  const client = await context.client();
  const teamId = await currentTeamId(context, client);
  for (const email of emails) {
    const made = await client.teams.invite(
      teamId,
      { email, role: options.admin === true ? "admin" : "member" },
      { signal: context.signal },
    );
    if (context.isJson) await context.printJson(made);
    else await context.note(`${printable(made.email)} is invited as ${made.role}; the mail can be answered for seven days`);
  }
  return exitCodes.ok;
}

export async function acceptInvitation(context: CommandContext, token: string): Promise<number> {
  const client = await context.client();
  const team = await client.teams.accept(token, { signal: context.signal });
  if (context.isJson) await context.printJson(team);
  else await context.note(`you are in team ${printable(team.name)} now; \`roost team switch ${team.id}\` acts for it`);
  return exitCodes.ok;
}

export async function members(context: CommandContext): Promise<number> {
  const client = await context.client();
  const teamId = await currentTeamId(context, client);
  const [found, invitations] = await Promise.all([
    client.teams.members(teamId, { signal: context.signal }),
    client.teams.invitations(teamId, { signal: context.signal }),
  ]);
  if (context.isJson) {
    await context.printJson({ members: found, invitations });
    return exitCodes.ok;
  }
  const rows = [
    ...found.map((member) => [member.user_id, printable(member.name), printable(member.email), member.role, formatAgo(member.joined_at)]),
    ...invitations.map((open) => [open.id, "(invited)", printable(open.email), open.role, formatAgo(open.created_at)]),
  ];
  await context.print(formatTable(context.colors, ["ID", "NAME", "E-MAIL", "ROLE", "SINCE"], rows));
  return exitCodes.ok;
}

/** Takes members out, and invitations back: each reference is an id, or an e-mail address. */
export async function removeMembers(context: CommandContext, references: readonly string[]): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const teamId = await currentTeamId(context, client);
  const [found, invitations] = await Promise.all([client.teams.members(teamId, { signal }), client.teams.invitations(teamId, { signal })]);
  for (const reference of references) {
    const member = memberIn(found, reference);
    const open = invitations.find(({ id, email }) => id === reference || email === reference.toLowerCase());
    if (member !== undefined) await client.teams.removeMember(teamId, member.user_id, { signal });
    else if (open !== undefined) await client.teams.revokeInvitation(teamId, open.id, { signal });
    else throw noMember(reference);
    await context.note(`${printable(member?.email ?? open?.email ?? reference)} is out`);
  }
  return exitCodes.ok;
}

export async function renameTeam(context: CommandContext, name: string): Promise<number> {
  const client = await context.client();
  const team = await client.teams.rename(await currentTeamId(context, client), name, { signal: context.signal });
  if (context.isJson) await context.printJson(team);
  else await context.note(`the team is called ${printable(team.name)} now`);
  return exitCodes.ok;
}

export async function setRole(context: CommandContext, reference: string, role: "member" | "admin"): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const teamId = await currentTeamId(context, client);
  const { user_id: userId } = await findMember(client, teamId, reference, signal);
  const member = await client.teams.setRole(teamId, userId, role, { signal });
  if (context.isJson) await context.printJson(member);
  else await context.note(`${printable(member.email)} is ${member.role} now`);
  return exitCodes.ok;
}

export async function transferTeam(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const teamId = await currentTeamId(context, client);
  const next = await findMember(client, teamId, reference, signal);
  const found = await client.teams.transfer(teamId, next.user_id, { signal });
  if (context.isJson) await context.printJson({ members: found });
  else await context.note(`${printable(next.email)} owns the team now`);
  return exitCodes.ok;
}

/** `reference`: the team that is acted for, so that nobody leaves another one than they think. */
export async function leaveTeam(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const team = await currentTeam(context, client, reference);
  await client.teams.leave(team.id, { signal: context.signal });
  if (context.isJson) await context.printJson(team);
  else await context.note(`you are in team ${printable(team.name)} no more; \`roost team switch\` acts for another one`);
  return exitCodes.ok;
}

/** Likewise. */
export async function removeTeam(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const team = await currentTeam(context, client, reference);
  await client.teams.delete(team.id, { signal: context.signal });
  if (context.isJson) await context.printJson(team);
  else await context.note(`team ${printable(team.name)} is deleted; its templates, snapshots and channels go within minutes`);
  return exitCodes.ok;
}

function memberIn(members: readonly Member[], reference: string): Member | undefined {
  return members.find(({ user_id: id, email }) => id === reference || email === reference.toLowerCase());
}

async function findMember(client: RoostClient, teamId: string, reference: string, signal: AbortSignal): Promise<Member> {
  const member = memberIn(await client.teams.members(teamId, { signal }), reference);
  if (member === undefined) throw noMember(reference);
  return member;
}

function noMember(reference: string): RoostError {
  return new RoostError("member_not_found", `the team has no member ${JSON.stringify(reference)}`);
}

async function currentTeam(context: CommandContext, client: RoostClient, reference: string): Promise<OwnTeam> {
  const team = chooseTeam(await client.teams.list({ signal: context.signal }), reference);
  if (team.id === (await currentTeamId(context, client))) return team;
  throw new CliError(`you do not act for team ${JSON.stringify(reference)}`, { hint: `first: roost team switch ${team.id}` });
}

async function currentTeamId(context: CommandContext, client: RoostClient): Promise<string> {
  const { team_id: teamId } = await client.account.get({ signal: context.signal });
  if (teamId === null) throw new RoostError("team_not_found", "you act for no team");
  return teamId;
}
