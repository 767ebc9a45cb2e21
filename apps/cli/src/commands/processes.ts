import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { printable } from "../output/printable.ts";
import { formatTable } from "../output/table.ts";
import { resolveId } from "../sandbox-reference.ts";

/** Longest command line shown in characters. */
const commandLengthMax = 100;

export async function processes(context: CommandContext, reference: string): Promise<number> {
  const client = await context.client();
  const id = await resolveId(client, reference, context.signal);
  const found = await client.sandbox(id).processes.list({ signal: context.signal });
  if (context.isJson) await context.printJson(found);
  else if (found.length === 0) await context.note("no processes were started from outside, or all have ended");
  else {
    const rows = found.map((process) => [String(process.pid), printable(process.tag ?? ""), formatCommand(process.cmd, process.args)]);
    await context.print(formatTable(context.colors, ["PID", "TAG", "COMMAND"], rows));
  }
  return exitCodes.ok;
}

function formatCommand(cmd: string, args: readonly string[]): string {
  const line = printable([cmd, ...args].join(" "));
  return line.length > commandLengthMax ? `${line.slice(0, commandLengthMax - 1)}…` : line;
}
