import { sandboxStates, type Sandbox, type SandboxState } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatAgo, formatMemory, formatState, formatTimeout } from "../output/format.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";

export interface ListOptions {
  readonly all?: boolean;
  readonly state?: SandboxState;
  readonly template?: string;
  readonly metadata?: Record<string, string>;
  readonly quiet?: boolean;
}

export async function list(context: CommandContext, options: ListOptions): Promise<number> {
  const client = await context.client();
  const { state, template, metadata } = options;
  const states = state === undefined ? (options.all === true ? sandboxStates : undefined) : [state];
  const sandboxes: Sandbox[] = [];
  for await (const sandbox of client.sandboxes.list({ states, template, metadata, limit: 1000, signal: context.signal })) {
    if (options.quiet === true) await context.print(sandbox.id);
    else sandboxes.push(sandbox);
  }
  if (options.quiet === true) return exitCodes.ok;
  if (context.isJson) await context.printJson(sandboxes);
  else if (sandboxes.length === 0) await context.note("no sandboxes; `roost create` makes one");
  else {
    await context.print(formatList(context, sandboxes));
    for (const { id, notice } of sandboxes) if (notice !== null) await context.note(`${id}: ${printable(notice)}`);
  }
  return exitCodes.ok;
}

function formatList(context: CommandContext, sandboxes: readonly Sandbox[]): string {
  const rows = sandboxes.map((sandbox) => [
    sandbox.id,
    formatState(sandbox.state, context.colors),
    sandbox.template,
    `${sandbox.vcpus}`,
    formatMemory(sandbox.memory_mb),
    sandbox.start_path ?? "",
    sandbox.current_generation === null ? "" : `${sandbox.current_generation}`,
    formatAgo(sandbox.created_at),
    formatTimeout(sandbox.timeout_sec),
    printable(formatLabels(sandbox.metadata)),
  ]);
  const headings = ["ID", "STATE", "TEMPLATE", "VCPUS", "MEMORY", "START", "GENERATION", "CREATED", "IDLE TIMEOUT", "METADATA"];
  return formatTable(context.colors, headings, rows);
}

export function formatLabels(metadata: Readonly<Record<string, string>>): string {
  return Object.entries(metadata)
    .map(([key, value]) => `${key}=${value}`)
    .join(" ");
}
