import type { CommandContext } from "../context.ts";
import { exitCodes, UsageError } from "../failure.ts";
import { resolveId } from "../sandbox-reference.ts";
import { eachSandbox } from "./each-sandbox.ts";

export interface KillOptions {
  readonly process?: string;
  readonly signal: "SIGKILL" | "SIGTERM";
}

export async function kill(context: CommandContext, references: readonly string[], options: KillOptions): Promise<number> {
  if (options.process !== undefined) return killProcess(context, references, options.process, options.signal);
  return eachSandbox(context, references, {
    doing: "ending",
    work: async (client, id) => {
      await client.sandboxes.delete(id, { signal: context.signal });
      return id;
    },
    show: async (deleted) => {
      if (context.isJson) await context.printJson({ deleted });
      else for (const id of deleted) await context.print(id);
    },
  });
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
