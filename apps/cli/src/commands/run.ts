import { randomUUID } from "node:crypto";

import { RoostError, type RoostClient } from "@roost/sdk";

import type { CommandContext } from "../context.ts";
import { withProgress } from "../output/progress.ts";
import { createInput, type CreateOptions } from "./create.ts";
import { execAttached, type ExecOptions } from "./exec.ts";

/** Label by which a run finds its sandbox again when it was interrupted before it learnt the id. */
const runLabel = "roost-run";
/** Time that removing the sandbox may take in `ms`. */
const deleteTimeoutMs = 30_000;

export interface RunOptions extends Omit<CreateOptions, "env">, ExecOptions {
  readonly keep?: boolean;
}

export async function run(context: CommandContext, command: string, args: readonly string[], options: RunOptions): Promise<number> {
  const client = await context.client();
  const runId = randomUUID();
  const input = await createInput({ ...options, env: {}, metadata: { ...options.metadata, [runLabel]: runId } }, context.io);
  let id: string | undefined;
  try {
    const created = await withProgress(context, "creating the sandbox", async () =>
      client.sandboxes.create(input, { signal: context.signal }),
    );
    id = created.id;
    return await execAttached(context, client.sandbox(id), command, args, options);
  } finally {
    if (options.keep === true && id !== undefined) await context.note(id);
    else await remove(context, client, id, runId);
  }
}

/** Not under the command's signal: an interrupt is the very reason to clean up. */
async function remove(context: CommandContext, client: RoostClient, id: string | undefined, runId: string): Promise<void> {
  try {
    const ids = id === undefined ? await findByLabel(client, runId) : [id];
    await withProgress(context, "deleting the sandbox", async () => {
      for (const found of ids) await client.sandboxes.delete(found, { timeoutMs: deleteTimeoutMs });
    });
  } catch (error) {
    if (error instanceof RoostError && error.is("sandbox_not_found")) return; // already gone
    // the command's own result matters more: say it, do not replace it
    const message = error instanceof Error ? error.message : String(error);
    if (id !== undefined) await context.warn(`sandbox ${id} could not be deleted: ${message}`).catch(() => undefined);
  }
}

async function findByLabel(client: RoostClient, runId: string): Promise<string[]> {
  const ids: string[] = [];
  for await (const sandbox of client.sandboxes.list({ metadata: { [runLabel]: runId }, timeoutMs: deleteTimeoutMs })) ids.push(sandbox.id);
  return ids;
}
