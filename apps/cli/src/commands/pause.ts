import type { CommandContext } from "../context.ts";
import { eachSandbox } from "./each-sandbox.ts";

export interface PauseOptions {
  /** False with `--no-memory` */
  readonly memory: boolean;
}

export async function pause(context: CommandContext, references: readonly string[], options: PauseOptions): Promise<number> {
  return eachSandbox(context, references, {
    doing: "pausing",
    work: async (client, id) => client.sandboxes.pause(id, { memory: options.memory, signal: context.signal }),
    show: async (sandboxes) => {
      if (context.isJson) await context.printJson(sandboxes);
      else for (const { id } of sandboxes) await context.print(id);
    },
  });
}
