import { sandboxStates, type Sandbox } from "@roost/contract";
import { RoostError, type RoostClient } from "@roost/sdk";

import { CliError, UsageError } from "./failure.ts";

/** Ids of this platform are this long; anything shorter may be the beginning of one. */
const fullIdLength = 21;
/** How many candidates an ambiguous beginning lists. */
const shownMax = 5;

/** The id that a user meant: a whole one, or its beginning when only one sandbox has it. */
export async function resolveId(client: RoostClient, reference: string, signal: AbortSignal): Promise<string> {
  if (!/^[a-z0-9]{1,40}$/.test(reference)) {
    throw new UsageError(`${JSON.stringify(reference)} is not a sandbox id`, "`roost ls` lists the sandboxes");
  }
  if (reference.length >= fullIdLength) return reference;
  const live = await findByPrefix(client, reference, signal, undefined);
  const found = live.length > 0 ? live : await findByPrefix(client, reference, signal, sandboxStates);
  return chooseId(found, reference);
}

async function findByPrefix(client: RoostClient, prefix: string, signal: AbortSignal, states: typeof sandboxStates | undefined) {
  const found: Sandbox[] = [];
  for await (const sandbox of client.sandboxes.list({ states, signal, limit: 1000 })) {
    if (sandbox.id.startsWith(prefix)) found.push(sandbox);
  }
  return found;
}

export function chooseId(found: readonly Pick<Sandbox, "id">[], reference: string): string {
  const exact = found.find((sandbox) => sandbox.id === reference);
  if (exact !== undefined) return exact.id;
  const [first, second] = found;
  if (first === undefined) throw new RoostError("sandbox_not_found", `there is no sandbox ${reference}`);
  if (second === undefined) return first.id;
  const ids = found.slice(0, shownMax).map((sandbox) => sandbox.id);
  const more = found.length > shownMax ? ` and ${found.length - shownMax} more` : "";
  throw new CliError(`${reference} is the beginning of ${found.length} sandboxes: ${ids.join(", ")}${more}`, {
    hint: "give more of the id",
  });
}
