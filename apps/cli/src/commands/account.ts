import { readFile } from "node:fs/promises";
import { join } from "node:path";

import { setUpCodeFile, setUpCodeSchema } from "@roost/contract";
import { RoostError, type Me, type Session } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { ask } from "../output/prompt.ts";
import { formatFields, formatTable } from "../output/table.ts";
import { isSamePlatform } from "../session-file.ts";
import { readEndpoint } from "../settings.ts";
import { keep, passwordOf } from "./login.ts";

export async function whoami(context: CommandContext): Promise<number> {
  const client = await context.client();
  const me = await client.account.get({ signal: context.signal });
  if (context.isJson) await context.printJson(me);
  else await context.print(formatMe(context, me, client.url));
  return exitCodes.ok;
}

function formatMe({ colors }: CommandContext, me: Me, url: string): string {
  const team = me.teams.find(({ id }) => id === me.team_id);
  return formatFields(colors, [
    [
      "who",
      me.user === null
        ? `API key ${printable(me.actor.name)} (${me.actor.id})`
        : `${printable(me.user.name)} <${printable(me.user.email)}>`,
    ],
    ["platform", url],
    ["team", me.team_id === null ? "none" : `${printable(team?.name ?? "")} (${me.team_id})`],
    ["role", me.role ?? undefined],
    ["admin", me.is_admin ? "of the platform" : undefined],
    ["may", me.scopes.join(" ") || "nothing"],
  ]);
}

export interface SignUpOptions {
  readonly email?: string;
  readonly name?: string;
  readonly invitation?: string;
  readonly setupCode?: string;
  readonly passwordStdin?: boolean;
}

export async function signUp(context: CommandContext, options: SignUpOptions): Promise<number> {
  const { io, signal } = context;
  const { SignIn } = await import("@roost/sdk");
  const url = await context.platformUrl();
  const email = options.email ?? (await ask(io, "E-mail: ", { instead: "give it with --email" }));
  const name = options.name ?? (await ask(io, "Your name: ", { instead: "give it with --name" }));
  const password = await newPassword(context, options);
  const { invitation, setupCode = await setUpCodeOf(context, url) } = options;
  const answer = await new SignIn({ url, userAgent: "roost-cli" }).signUp(
    {
      email,
      name,
      password,
      ...(invitation === undefined ? {} : { invitation }),
      ...(setupCode === undefined ? {} : { setup_code: setupCode }),
    },
    { signal },
  );
  if (answer.signed_in !== null) await keep(context, url, answer.signed_in);
  else if (context.isJson) await context.printJson(answer);
  else await context.note(`a mail is on its way to ${printable(email)}; it says how to go on`);
  return exitCodes.ok;
}

/** The set-up code of the platform of this machine, for whoever can read its state folder: they become its admin without copying anything. */
async function setUpCodeOf(context: CommandContext, url: string): Promise<string | undefined> {
  const { dir } = context.settings;
  const endpoint = await readEndpoint(dir);
  if (endpoint === undefined || !isSamePlatform(endpoint.url, url)) return undefined;
  // Not there: there is an admin already. Not to be read: somebody else's platform
  const text = await readFile(join(dir, setUpCodeFile), "utf8").catch(() => "");
  return setUpCodeSchema.safeParse(text.trim()).data;
}

/** Twice where somebody types it, because nobody sees what they type. */
async function newPassword({ io }: CommandContext, options: { readonly passwordStdin?: boolean }): Promise<string> {
  const password = await passwordOf(io, options, "New password: ");
  if (options.passwordStdin === true || password === (await passwordOf(io, options, "Again: "))) return password;
  throw new RoostError("request_invalid", "the two passwords are not the same");
}

export async function confirm(context: CommandContext, token: string, options: { readonly passwordStdin?: boolean }): Promise<number> {
  const { SignIn } = await import("@roost/sdk");
  const url = await context.platformUrl();
  const password = await passwordOf(context.io, options, "The password that you chose: ");
  const signedIn = await new SignIn({ url, userAgent: "roost-cli" }).confirm({ token, password }, { signal: context.signal });
  await keep(context, url, signedIn);
  return exitCodes.ok;
}

/** Without a token, asks for the mail that has one. */
export async function resetPassword(
  context: CommandContext,
  token: string | undefined,
  options: { readonly email?: string; readonly passwordStdin?: boolean },
): Promise<number> {
  const { SignIn } = await import("@roost/sdk");
  const { io, signal } = context;
  const signIn = new SignIn({ url: await context.platformUrl(), userAgent: "roost-cli" });
  if (token === undefined) {
    const email = options.email ?? (await ask(io, "E-mail: ", { instead: "give it with --email" }));
    await signIn.askPasswordReset(email, { signal });
    await context.note(`if ${printable(email)} has an account, a mail is on its way there`);
  } else {
    await signIn.resetPassword(token, await newPassword(context, options), { signal });
    await context.note("the password is changed, and all sessions have ended: `roost login` signs you in");
  }
  return exitCodes.ok;
}

export async function changePassword(context: CommandContext): Promise<number> {
  const { io, signal } = context;
  const client = await context.client();
  const { has_password: hasPassword } = await client.account.get({ signal });
  const current = hasPassword ? await passwordOf(io, {}, "Present password: ") : undefined;
  const wanted = await newPassword(context, {});
  await client.account.changePassword(
    { new_password: wanted, ...(current === undefined ? {} : { current_password: current }) },
    { signal },
  );
  await context.note("the password is changed, and all other sessions have ended");
  return exitCodes.ok;
}

export async function sessions(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const found = await client.account.sessions({ signal: context.signal });
  if (options.quiet === true) for (const { id } of found) await context.print(id);
  else if (context.isJson) await context.printJson(found);
  else await context.print(formatSessions(context, found));
  return exitCodes.ok;
}

function formatSessions({ colors }: CommandContext, found: readonly Session[]): string {
  const rows = found.map((session) => [
    session.id,
    session.is_current ? "this one" : "",
    printable(session.client.slice(0, 40)),
    session.address ?? "",
    formatAgo(session.created_at),
    formatAgo(session.last_used_at),
  ]);
  return formatTable(colors, ["ID", "", "CLIENT", "FROM", "SIGNED IN", "USED"], rows);
}

/** `ids` empty: all but this one. */
export async function revokeSessions(context: CommandContext, ids: readonly string[]): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  if (ids.length === 0) await client.account.revokeOtherSessions({ signal });
  for (const id of ids) await client.account.revokeSession(id, { signal });
  await context.note(ids.length === 0 ? "all other sessions have ended" : "ended");
  return exitCodes.ok;
}
