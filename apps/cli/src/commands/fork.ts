import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { printable } from "../output/printable.ts";
import { withProgress } from "../output/progress.ts";
import { resolveId } from "../sandbox-reference.ts";

export interface ForkOptions {
  readonly count: number;
  readonly metadata?: Record<string, string>;
}

/** Prints the ids of the children that run; the exit code says whether all do. */
export async function fork(context: CommandContext, reference: string, options: ForkOptions): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const { count, metadata } = options;
  const results = await withProgress(context, `forking ${id} into ${count}`, async () =>
    client.sandboxes.fork(id, count, { metadata, signal: context.signal }),
  );
  if (context.isJson) await context.printJson(results);
  let failedCount = 0;
  for (const result of results) {
    if ("error" in result) {
      failedCount += 1;
      if (!context.isJson) await context.warn(`a child failed: ${printable(result.error.message)}`);
    } else if (!context.isJson) await context.print(result.sandbox.id);
  }
  return failedCount === 0 ? exitCodes.ok : exitCodes.error;
}
