import type { Generation } from "@roost/contract";
import { formatBytes } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import { formatTable } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";

export async function generations(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const found = await client.sandboxes.generations(id, { signal: context.signal });
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note(`${id} has no generations yet; \`roost checkpoint ${id}\` makes one`);
  else await context.print(formatGenerations(context, found));
  return exitCodes.ok;
}

function formatGenerations(context: CommandContext, found: readonly Generation[]): string {
  const rows = found.map((generation) => [
    `${generation.number}${generation.is_current ? "*" : ""}`,
    printable(generation.kind),
    generation.has_memory ? "memory, disk" : "disk",
    formatBytes(generation.size_bytes),
    formatAgo(generation.created_at),
  ]);
  return formatTable(context.colors, ["GENERATION", "MADE FOR", "HOLDS", "SIZE", "CREATED"], rows);
}

/** Prints the new generation's number. */
export async function checkpoint(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const made = await withProgress(context, "making a checkpoint", async () => client.sandboxes.checkpoint(id, { signal: context.signal }));
  if (context.isJson) await context.printJson(made);
  else await context.print(String(made.generation.number));
  return exitCodes.ok;
}

export async function rollback(context: CommandContext, reference: string, generation: number): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const sandbox = await withProgress(context, `going back to generation ${generation}`, async () =>
    client.sandboxes.rollback(id, generation, { signal: context.signal }),
  );
  if (context.isJson) await context.printJson(sandbox);
  else await context.print(`${id} is back at generation ${generation}`);
  return exitCodes.ok;
}
