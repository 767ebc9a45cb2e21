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
  readonly follow?: boolean;
  /** Position of the last event that is known */
  readonly after?: number;
}

/** The newest events, of all sandboxes or of one; or those that happen from now on. */
export async function events(context: CommandContext, reference: string | undefined, options: EventsOptions): Promise<number> {
  const client = await context.client();
  const sandboxId = reference === undefined ? undefined : await resolveId(client, reference, context.signal);
  if (options.follow === true) return follow(context, sandboxId, options);
  const found: Event[] = [];
  if (options.limit > 0) {
    for await (const event of client.events.list({ sandboxId, limit: Math.min(options.limit, pageSize), signal: context.signal })) {
      if (found.push(event) >= options.limit) break;
    }
  }
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("nothing happened yet");
  else await context.print(formatEvents(context, found));
  return exitCodes.ok;
}

/** One line for each event, as it happens, until the user interrupts it. */
async function follow(context: CommandContext, sandboxId: string | undefined, { after }: EventsOptions): Promise<number> {
  const client = await context.client();
  let gap: Promise<void> = Promise.resolve();
  const onGap = () => {
    gap = context.warn("some events in between are not kept any more");
  };
  for await (const event of client.events.follow({ sandboxId, after, onGap, signal: context.signal })) {
    await gap;
    if (context.isJson) await context.printJson(event);
    else await context.print(formatLine(context, event));
  }
  return exitCodes.ok;
}

function formatLine({ colors }: CommandContext, event: Event): string {
  const of = event.sandbox_id ?? printable(event.template ?? event.subject.id);
  return `${colors.dim(event.time)}  ${event.kind}  ${of}  ${printable(event.message)}`;
}

function formatEvents(context: CommandContext, found: readonly Event[]): string {
  const rows = found.map((event) => [
    formatAgo(event.time),
    event.kind,
    event.sandbox_id ?? printable(event.template ?? event.subject.id),
    printable(event.message),
  ]);
  return formatTable(context.colors, ["WHEN", "EVENT", "OF", "MESSAGE"], rows);
}
