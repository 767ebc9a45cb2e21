import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { resolveId } from "../sandbox-reference.ts";

/** What opens the private ports of a sandbox to programs, which cannot follow a browser's way. */
export async function trafficToken(context: CommandContext, reference: string, options: { readonly rotate?: boolean }): Promise<number> {
  const client = await context.client();
  const { ports } = client.sandbox(await resolveId(client, reference, context.signal));
  const { signal } = context;
  const given = options.rotate === true ? await ports.rotateToken({ signal }) : await ports.token({ signal });
  if (context.isJson) await context.printJson(given);
  else {
    await context.print(given.token);
    if (context.io.stderr.isTTY === true) await context.note(`send it in the header ${given.header}`);
  }
  return exitCodes.ok;
}
