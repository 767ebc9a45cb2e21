import type { CreateSandboxInput } from "@roost/contract";

import type { CommandContext } from "../context.ts";
import { exitCodes } from "../failure.ts";
import { formatMemory } from "../output/format.ts";
import type { Io } from "../io.ts";
import { withProgress } from "../output/progress.ts";
import { networkInput, type NetworkOptions } from "../parse/network.ts";

export interface CreateOptions extends NetworkOptions {
  readonly template?: string;
  readonly vcpus?: number;
  readonly memory?: number;
  readonly idleTimeout?: number;
  readonly metadata?: Record<string, string>;
  readonly env?: Record<string, string>;
  readonly autoResume?: boolean;
  readonly checkpointInterval?: number;
  readonly hostTag?: readonly string[];
}

/** The request that the options ask for; what is not given is left to the platform's defaults. */
export async function createInput(options: CreateOptions, io: Io): Promise<CreateSandboxInput> {
  const network = await networkInput(options, io);
  return {
    ...(network !== undefined && { network }),
    template: options.template,
    vcpus: options.vcpus,
    memory_mb: options.memory,
    timeout_sec: options.idleTimeout,
    auto_resume: options.autoResume,
    checkpoint_interval_sec: options.checkpointInterval,
    metadata: options.metadata,
    envs: options.env,
    ...(options.hostTag === undefined ? {} : { host_tags: [...options.hostTag] }),
  };
}

export async function create(context: CommandContext, options: CreateOptions): Promise<number> {
  const input = await createInput(options, context.io);
  const client = await context.client();
  const sandbox = await withProgress(context, "creating the sandbox", async () =>
    client.sandboxes.create(input, { signal: context.signal }),
  );
  if (context.isJson) await context.printJson(sandbox);
  else {
    await context.print(sandbox.id);
    if (context.io.stderr.isTTY === true) {
      const size = `${sandbox.vcpus} vCPU, ${formatMemory(sandbox.memory_mb)}`;
      await context.note(context.colors.dim(`${sandbox.template}, ${size}; try: roost shell ${sandbox.id.slice(0, 6)}`));
    }
  }
  return exitCodes.ok;
}
