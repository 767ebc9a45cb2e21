import { scopeNames, type ApiKeyInfo, type Scope } from "@roost/contract";
import { RoostError } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { CliError, exitCodes, UsageError } from "../failure.ts";
import { formatAgo, formatDuration } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";
import { removeNamed } from "./remove-named.ts";

export interface CreateKeyOptions {
  readonly scopes?: readonly string[];
  /** in `s` */
  readonly expires?: number;
}

/** Prints the key alone, so that it can go straight to where it is kept. */
export async function createKey(context: CommandContext, name: string, options: CreateKeyOptions): Promise<number> {
  const scopes = options.scopes?.map(scopeNamed);
  const client = await context.client();
  const body = {
    name,
    ...(scopes === undefined ? {} : { scopes }),
    ...(options.expires === undefined ? {} : { expires_in_sec: options.expires }),
  };
  const made = await client.keys.create(body, { signal: context.signal });
  if (context.isJson) await context.printJson(made);
  else {
    await context.print(made.key);
    await context.note(`this is key ${made.id}; it is shown only now. It may: ${made.scopes.join(", ")}`);
  }
  return exitCodes.ok;
}

function scopeNamed(text: string): Scope {
  const found = scopeNames.find((scope) => scope === text);
  if (found === undefined) throw new UsageError(`there is no scope ${JSON.stringify(text)}`, `there are ${scopeNames.join(", ")}`);
  return found;
}

export async function listKeys(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const keys = await client.keys.list({ signal: context.signal });
  if (options.quiet === true) for (const { id } of keys) await context.print(id);
  else if (context.isJson) await context.printJson(keys);
  else if (keys.length === 0) await context.note("no API keys; `roost key create NAME` makes one");
  else await context.print(formatKeys(context, keys));
  return exitCodes.ok;
}

function formatKeys(context: CommandContext, keys: readonly ApiKeyInfo[]): string {
  const rows = keys.map((key) => [
    key.id,
    printable(key.name),
    `roost_${key.prefix}…`,
    formatAgo(key.created_at),
    key.last_used_at === null ? "never" : formatAgo(key.last_used_at),
    formatExpiry(key.expires_at),
    key.scopes.length === scopeNames.length ? "all" : key.scopes.join(" "),
  ]);
  return formatTable(context.colors, ["ID", "NAME", "KEY", "CREATED", "USED", "EXPIRES", "SCOPES"], rows);
}

function formatExpiry(instant: string | null, nowMs: number = Date.now()): string {
  if (instant === null) return "never";
  const leftSec = (Date.parse(instant) - nowMs) / 1000;
  return leftSec > 0 ? `in ${formatDuration(leftSec)}` : "it has";
}

/** Each of `references` is an id, its beginning, or a name that only one key has. */
export async function removeKeys(context: CommandContext, references: readonly string[]): Promise<number> {
  const client = await context.client();
  const keys = await client.keys.list({ signal: context.signal });
  return removeNamed(context, references, async (reference) =>
    client.keys.delete(chooseKey(keys, reference).id, { signal: context.signal }),
  );
}

function chooseKey(keys: readonly ApiKeyInfo[], reference: string): ApiKeyInfo {
  const exact = keys.filter((key) => key.id === reference);
  const named = keys.filter((key) => key.name === reference);
  const begun = keys.filter((key) => key.id.startsWith(reference));
  const found = [exact, named, begun].find((some) => some.length > 0) ?? [];
  const [first, second] = found;
  if (first === undefined) throw new RoostError("api_key_not_found", `there is no API key ${JSON.stringify(reference)}`);
  if (second === undefined) return first;
  throw new CliError(`${JSON.stringify(reference)} may be ${found.length} keys: ${found.map(({ id }) => id).join(", ")}`, {
    hint: "give the id of one",
  });
}
