import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatTimeout } from "../output/format.ts";
import { resolveId } from "../sandbox-reference.ts";

export async function timeout(context: CommandContext, reference: string, seconds: number): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const sandbox = await client.sandboxes.setTimeout(id, seconds, { signal: context.signal });
  if (context.isJson) await context.printJson(sandbox);
  else await context.print(`${id} ends after ${formatTimeout(sandbox.timeout_sec)} without activity`.replace("after never", "never"));
  return exitCodes.ok;
}
