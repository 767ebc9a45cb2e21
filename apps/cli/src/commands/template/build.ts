import type { BuildOptions } from "@roost/sdk";

import type { CommandContext } from "../../context.ts";
import { exitCodes } from "../../failure.ts";
import { StatusLine } from "../../output/status-line.ts";
import { BuildDisplay } from "./build-display.ts";
import { buildSource, type SourceOptions } from "./build-source.ts";
import { registryCredentials, type RegistryOptions } from "./registry-credentials.ts";

export interface BuildCommandOptions extends SourceOptions, RegistryOptions {
  readonly name: string;
  readonly tag?: readonly string[];
  readonly vcpus?: number;
  readonly memory?: number;
  readonly detach?: boolean;
}

/** Builds a template and shows how it goes. An interrupt cancels the build. */
export async function buildTemplate(context: CommandContext, folder: string | undefined, options: BuildCommandOptions): Promise<number> {
  const source = await buildSource(context, folder, options);
  const credentials = await registryCredentials(context, options);
  const { name, tag: tags, vcpus, memory: memoryMb, detach } = options;
  const asked = { name, tags, vcpus, memoryMb, credentials, signal: context.signal };
  const client = await context.client();
  if (context.isJson) {
    const told: BuildOptions = {
      ...asked,
      onPrepared: async ({ notes, skipped }) => context.printJson({ type: "prepared", notes, skipped }),
      onBuild: async (build) => context.printJson({ type: "build", build }),
      onLog: async (line) => context.printJson({ type: "line", line }),
    };
    if (detach === true) await context.printJson({ type: "build", build: (await client.templates.start(source, told)).build });
    else await client.templates.build(source, told);
    return exitCodes.ok;
  }
  using status = await StatusLine.open(context, `preparing the build of ${name}`);
  const display = new BuildDisplay(status, name);
  const shown: BuildOptions = {
    ...asked,
    onFiles: (progress) => display.files(progress),
    onPrepared: (prepared) => display.prepared(prepared),
    onBuild: (build) => display.build(build),
    onLog: (line) => display.line(line),
  };
  if (detach === true) {
    const { build } = await client.templates.start(source, shown);
    await context.print(build.id);
    return exitCodes.ok;
  }
  context.signal.addEventListener("abort", () => status.update(`cancelling the build of ${name}`), { once: true });
  const done = await client.templates.build(source, shown);
  status[Symbol.dispose]();
  await context.note(display.summary(done));
  await context.print(name);
  if (context.io.stderr.isTTY === true) await context.note(context.colors.dim(`try: roost create --template ${name}`));
  return exitCodes.ok;
}
