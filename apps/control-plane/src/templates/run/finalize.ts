import type { Recipe, TemplateDefaults } from "@roost/contract";
import type { Template } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { saveTimeoutMs } from "../../hosts/host-link.ts";
import { patiently, withSandbox, type BuildSandboxes } from "./build-sandbox.ts";
import { isSandboxLost } from "./failures.ts";
import type { Progress } from "./progress.ts";
import { startAndAwait } from "./start-command.ts";
import { prepare, type ChainEnd } from "./step-chain.ts";
import { withHome, type StepContext } from "./step-context.ts";
import type { BuildSource } from "./build-source.ts";
import type { BuildGuest } from "./build-guest.ts";

export interface FinalizeParts {
  readonly sandboxes: BuildSandboxes;
  readonly progress: Progress;
  readonly recipe: Pick<Recipe, "start_command" | "ready_command">;
  /** What runs in it if the recipe does not say */
  readonly inherited: Pick<BuildSource, "startCommand" | "readyCommand">;
  readonly context: StepContext;
  /** Name of the result on the host */
  readonly hostTemplate: string;
}

/** As `buildStepSchema` says */
export const finalizeLabel = "finalize";

/** Boots a fresh sandbox from the last step, starts what is to run in it, and makes the template with its memory. A lost sandbox is replaced once. */
export async function finalize(end: ChainEnd, parts: FinalizeParts): Promise<Template> {
  try {
    return await finalizeOnce(end, parts);
  } catch (error) {
    if (!isSandboxLost(error) || parts.sandboxes.signal.aborted) throw error;
    await parts.progress.say("warn", finalizeLabel, `the sandbox that was to be the template was lost (${error.message}); trying again`);
    return finalizeOnce(end, parts);
  }
}

async function finalizeOnce(end: ChainEnd, parts: FinalizeParts): Promise<Template> {
  const { sandboxes, progress, hostTemplate } = parts;
  const { host, signal, log } = sandboxes;
  const say = (line: string) => progress.say("info", finalizeLabel, line);
  return withSandbox(sandboxes, end.hostTemplate, async ({ id, guest, inside }) => {
    for (const step of end.pending) await prepare(inside, step);
    const defaults = await defaultsFor(inside, parts);
    if (defaults.startCommand !== "") await say(`START ${defaults.startCommand}`);
    if (defaults.readyCommand !== "") await say(`READY ${defaults.readyCommand}`);
    await startAndAwait(guest, defaults, { signal, log, onLine: say });
    await say("saving the template with its memory");
    const request = { sandboxId: id, name: hostTemplate, memory: true, replace: true, kind: "build", defaults };
    const answer = await patiently(signal, log, () => host.call(() => host.client.createTemplate(request, { timeoutMs: saveTimeoutMs })));
    host.forgetDescription();
    if (answer.template === undefined) throw new Error("the host did not describe the template it made");
    return answer.template;
  });
}

/** Names and absolute paths: what a number or `~` means is known in the guest. */
async function defaultsFor(guest: BuildGuest, { recipe, inherited, context }: FinalizeParts): Promise<TemplateDefaults> {
  const { name, home } = await guest.account(context.user);
  return {
    user: context.user === "" ? "" : name,
    workdir: context.workdir === "" ? "" : withHome(context.workdir, home),
    envs: { ...context.envs },
    ...commandsOf(recipe, inherited),
  };
}

/** What runs in a build's template. A recipe that says one of the two says both. */
export function commandsOf(
  recipe: FinalizeParts["recipe"],
  inherited: FinalizeParts["inherited"],
): Pick<TemplateDefaults, "startCommand" | "readyCommand"> {
  const isSaid = recipe.start_command !== undefined || recipe.ready_command !== undefined;
  if (!isSaid) return { startCommand: inherited.startCommand, readyCommand: inherited.readyCommand };
  return { startCommand: recipe.start_command ?? "", readyCommand: recipe.ready_command ?? "" };
}
