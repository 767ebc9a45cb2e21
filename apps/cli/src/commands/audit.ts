import { auditActions, type AuditAction, type AuditEntryView, type AuditLogName } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes, UsageError } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";

/** Entries that one request asks for at most */
const pageSize = 1000;

export interface AuditFlags {
  readonly platform?: boolean;
}

export interface ListAuditFlags extends AuditFlags {
  readonly limit: number;
  readonly actor?: string;
  readonly action?: string;
  readonly resource?: string;
  readonly failed?: boolean;
}

/** The newest entries. */
export async function listAudit(context: CommandContext, flags: ListAuditFlags): Promise<number> {
  const action = flags.action === undefined ? undefined : actionNamed(flags.action);
  const client = await context.client();
  const found: AuditEntryView[] = [];
  if (flags.limit > 0) {
    const entries = client.audit.list({
      log: logOf(flags),
      actor: flags.actor,
      action,
      resourceId: flags.resource,
      status: flags.failed === true ? "failure" : undefined,
      limit: Math.min(flags.limit, pageSize),
      signal: context.signal,
    });
    for await (const entry of entries) if (found.push(entry) >= flags.limit) break;
  }
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("nothing of that is in the log");
  else await context.print(formatEntries(context, found));
  return exitCodes.ok;
}

/** Whether the log is what was written; exit code 1 when it is not. */
export async function verifyAudit(context: CommandContext, flags: AuditFlags & { readonly known?: string }): Promise<number> {
  const known = flags.known === undefined ? undefined : parseKnown(flags.known);
  const client = await context.client();
  const answer = await client.audit.verify(logOf(flags), known, { signal: context.signal });
  if (context.isJson) await context.printJson(answer);
  else if (answer.is_intact) {
    const from = known === undefined ? answer.kept_from : known.number + 1;
    await context.print(`intact: ${answer.checked} entries from ${from}, the last is ${answer.checked_to}:${answer.checked_to_hash}`);
  } else {
    const right = `${answer.checked} entries before it are right`;
    await context.print(`broken at entry ${answer.broken_at}: ${printable(answer.problem ?? "")}; ${right}`);
  }
  return answer.is_intact ? exitCodes.ok : exitCodes.error;
}

function logOf({ platform }: AuditFlags): AuditLogName {
  return platform === true ? "platform" : "team";
}

function actionNamed(text: string): AuditAction {
  const found = auditActions.find((action) => action === text);
  if (found === undefined) throw new UsageError(`there is no action ${JSON.stringify(text)}`, `there are ${auditActions.join(", ")}`);
  return found;
}

function parseKnown(text: string): { readonly number: number; readonly hash: string } {
  const [, number, hash] = /^(\d{1,15}):([0-9a-f]{64})$/.exec(text) ?? [];
  if (number === undefined || hash === undefined) {
    throw new UsageError(
      "--known: write NUMBER:HASH",
      "`roost audit verify` prints that of the last entry, and so does the control plane's log",
    );
  }
  return { number: Number(number), hash };
}

function formatEntries(context: CommandContext, entries: readonly AuditEntryView[]): string {
  const { colors } = context;
  const rows = entries.map((entry) => [
    String(entry.number),
    formatAgo(entry.time),
    printable(entry.actor.name === "" ? entry.actor.id : entry.actor.name),
    entry.status === "failure" ? colors.red(`${entry.action} ✗`) : entry.action,
    printable(entry.resource.id ?? ""),
    entry.address === null ? "" : printable(entry.address),
    printable(
      Object.entries(entry.detail)
        .map(([key, value]) => `${key}=${value}`)
        .join(" "),
    ),
  ]);
  return formatTable(colors, ["NUMBER", "WHEN", "WHO", "ACTION", "OF", "FROM", "DETAIL"], rows);
}
