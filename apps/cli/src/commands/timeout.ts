import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatTimeout } from "../output/format.ts";
import { resolveId } from "../sandbox-reference.ts";

export async function timeout(context: CommandContext, reference: string, seconds: number): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const sandbox = await client.sandboxes.setTimeout(id, seconds, { signal: context.signal });
  if (context.isJson) await context.printJson(sandbox);
  else await context.print(formatIdleTimeout(id, sandbox.timeout_sec));
  return exitCodes.ok;
}

function formatIdleTimeout(id: string, timeoutSec: number): string {
  return timeoutSec === 0
    ? `${id} is never paused for want of activity`
    : `${id} is paused after ${formatTimeout(timeoutSec)} without activity`;
}
