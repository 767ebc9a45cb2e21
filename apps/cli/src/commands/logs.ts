import { setTimeout as sleep } from "node:timers/promises";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { newBytes } from "../output/new-bytes.ts";
import { write } from "../output/write.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Time between two looks at the console when following in `ms`. */
const followIntervalMs = 1_000;
const bytesDefault = 64 * 1024;

export interface LogsOptions {
  readonly follow?: boolean;
  readonly bytes?: number;
}

export async function logs(context: CommandContext, reference: string, options: LogsOptions): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const bytes = options.bytes ?? bytesDefault;
  const read = async (count: number) => client.sandboxes.logs(id, count, { signal: context.signal });
  const show = async (data: Buffer) => {
    if (data.length === 0) return;
    if (context.isJson) for (const line of data.toString("utf8").split("\n").filter(Boolean)) await context.printJson({ line });
    else await write(context.io.stdout, data);
  };
  // always the same window, so that two looks can be compared
  const window = Math.max(bytes, bytesDefault);
  let seen = await read(options.follow === true ? window : bytes);
  await show(seen.subarray(-bytes));
  while (options.follow === true) {
    await sleep(followIntervalMs, undefined, { signal: context.signal });
    const latest = await read(window);
    await show(newBytes(seen, latest));
    seen = latest;
  }
  return exitCodes.ok;
}
