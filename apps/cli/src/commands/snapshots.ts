import type { Snapshot } from "@roost/contract";
import { formatBytes } from "@roost/kit";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo, formatMemory } from "../output/format.ts";
import { withProgress } from "../output/progress.ts";
import { formatTable } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";
import { removeNamed } from "./remove-named.ts";

export async function createSnapshot(
  context: CommandContext,
  reference: string,
  name: string,
  options: { readonly memory: boolean },
): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const snapshot = await withProgress(context, `making snapshot ${name}`, async () =>
    client.snapshots.create(id, name, { memory: options.memory, signal: context.signal }),
  );
  if (context.isJson) await context.printJson(snapshot);
  else {
    await context.print(snapshot.name);
    if (context.io.stderr.isTTY === true) await context.note(context.colors.dim(`try: roost create --template ${snapshot.name}`));
  }
  return exitCodes.ok;
}

export async function listSnapshots(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const snapshots = await client.snapshots.list({ signal: context.signal });
  if (options.quiet === true) for (const { name } of snapshots) await context.print(name);
  else if (context.isJson) await context.printJson(snapshots);
  else if (snapshots.length === 0) await context.note("no snapshots; `roost snapshot create ID NAME` makes one");
  else await context.print(formatSnapshots(context, snapshots));
  return exitCodes.ok;
}

function formatSnapshots(context: CommandContext, snapshots: readonly Snapshot[]): string {
  const rows = snapshots.map((snapshot) => [
    snapshot.name,
    snapshot.has_memory ? "memory, disk" : "disk",
    snapshot.vcpus === null ? "any" : `${snapshot.vcpus}`,
    snapshot.memory_mb === null ? "any" : formatMemory(snapshot.memory_mb),
    formatBytes(snapshot.size_bytes),
    formatAgo(snapshot.created_at),
    snapshot.source_sandbox_id ?? "",
  ]);
  return formatTable(context.colors, ["NAME", "HOLDS", "VCPUS", "MEMORY", "SIZE", "CREATED", "MADE FROM"], rows);
}

export async function removeSnapshots(context: CommandContext, names: readonly string[]): Promise<number> {
  const client = await context.client();
  return removeNamed(context, names, async (name) => client.snapshots.delete(name, { signal: context.signal }));
}
