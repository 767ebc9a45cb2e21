import type { Event } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Events that one request asks for at most */
const pageSize = 1000;

export interface EventsOptions {
  readonly limit: number;
}

/** The newest events, of all sandboxes or of one. */
export async function events(context: CommandContext, reference: string | undefined, options: EventsOptions): Promise<number> {
  const client = await context.client();
  const sandboxId = reference === undefined ? undefined : await resolveId(client, reference, context.signal);
  const found: Event[] = [];
  if (options.limit > 0) {
    for await (const event of client.events({ sandboxId, limit: Math.min(options.limit, pageSize), signal: context.signal })) {
      if (found.push(event) >= options.limit) break;
    }
  }
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("nothing happened yet");
  else await context.print(formatEvents(context, found));
  return exitCodes.ok;
}

function formatEvents(context: CommandContext, found: readonly Event[]): string {
  const rows = found.map((event) => [
    formatAgo(event.time),
    event.kind,
    event.sandbox_id ?? printable(event.template ?? ""),
    printable(event.message),
  ]);
  return formatTable(context.colors, ["WHEN", "EVENT", "OF", "MESSAGE"], rows);
}
