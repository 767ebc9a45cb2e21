import type { CommandContext } from "../context.ts";
import { describeFailure, exitCodes, UsageError } from "../failure.ts";
import { withProgress } from "../output/progress.ts";
import { resolveId } from "../sandbox-reference.ts";

export interface KillOptions {
  readonly process?: string;
  readonly signal: "SIGKILL" | "SIGTERM";
}

export async function kill(context: CommandContext, references: readonly string[], options: KillOptions): Promise<number> {
  if (options.process !== undefined) return killProcess(context, references, options.process, options.signal);
  const client = await context.client();
  const ids = await Promise.all(references.map(async (reference) => resolveId(client, reference, context.signal)));
  const ended: string[] = [];
  const failures: { id: string; error: unknown }[] = [];
  await withProgress(context, `ending ${ids.length === 1 ? ids[0] : `${ids.length} sandboxes`}`, async () => {
    await Promise.all(
      ids.map(async (id) => {
        await client.sandboxes.delete(id, { signal: context.signal }).then(
          () => ended.push(id),
          (error: unknown) => failures.push({ id, error }),
        );
      }),
    );
  });
  if (context.isJson) await context.printJson({ deleted: ended });
  else for (const id of ended) await context.print(id);
  const [first, ...more] = failures;
  if (first === undefined) return exitCodes.ok;
  for (const { id, error } of more) await context.warn(`${id}: ${describeFailure(error).message}`);
  throw first.error;
}

async function killProcess(
  context: CommandContext,
  references: readonly string[],
  selector: string,
  signal: KillOptions["signal"],
): Promise<number> {
  const [reference, second] = references;
  if (reference === undefined || second !== undefined) throw new UsageError("--process needs exactly one sandbox");
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  await client.sandbox(id).processes.signal(selector, signal, { signal: context.signal });
  if (context.isJson) await context.printJson({ sandbox_id: id, process: selector, signal });
  return exitCodes.ok;
}
