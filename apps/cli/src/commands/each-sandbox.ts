import type { RoostClient } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { describeFailure, exitCodes } from "../failure.ts";
import { withProgress } from "../output/progress.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Changes under way at the same time: each may write a sandbox's memory to one disk */
const atOnceMax = 8;

/** Does something to each of the named sandboxes, whatever becomes of the others; tells those that failed, and throws the first. */
export async function eachSandbox<Result>(
  context: CommandContext,
  references: readonly string[],
  options: {
    /** Such as `pausing` */
    readonly doing: string;
    readonly work: (client: RoostClient, id: string) => Promise<Result>;
    readonly show: (results: readonly Result[]) => Promise<void>;
  },
): Promise<number> {
  const client = await context.client();
  const ids = await Promise.all(references.map(async (reference) => resolveId(client, reference, context.signal)));
  const results: Result[] = [];
  const failures: { readonly id: string; readonly error: unknown }[] = [];
  const waiting = [...new Set(ids)];
  const total = waiting.length;
  await withProgress(context, `${options.doing} ${total === 1 ? waiting[0] : `${total} sandboxes`}`, async (progress) => {
    const worker = async () => {
      for (let id = waiting.shift(); id !== undefined; id = waiting.shift()) {
        try {
          results.push(await options.work(client, id));
        } catch (error) {
          failures.push({ id, error });
        }
        if (total > 1) progress.update(`${options.doing} sandboxes: ${results.length + failures.length} of ${total}`);
      }
    };
    await Promise.all(Array.from({ length: Math.min(atOnceMax, total) }, worker));
  });
  await options.show(results);
  const [first, ...more] = failures;
  if (first === undefined) return exitCodes.ok;
  for (const { id, error } of more) await context.warn(`${id}: ${describeFailure(error).message}`);
  throw first.error;
}
