import type { CommandContext } from "../context.ts";
import { printable } from "../output/printable.ts";
import { eachSandbox } from "./each-sandbox.ts";

export interface ResumeOptions {
  /** False with `--no-memory` */
  readonly memory: boolean;
  readonly idleTimeout?: number;
}

export async function resume(context: CommandContext, references: readonly string[], options: ResumeOptions): Promise<number> {
  const { memory, idleTimeout } = options;
  return eachSandbox(context, references, {
    doing: "resuming",
    work: async (client, id) => client.sandboxes.resume(id, { memory, timeout_sec: idleTimeout, signal: context.signal }),
    show: async (sandboxes) => {
      if (context.isJson) return context.printJson(sandboxes);
      for (const { id, notice } of sandboxes) {
        await context.print(id);
        if (notice !== null) await context.note(`${id}: ${printable(notice)}`);
      }
    },
  });
}
