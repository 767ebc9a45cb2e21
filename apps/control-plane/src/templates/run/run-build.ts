import type { Readable } from "node:stream";

import { PlatformError, type Recipe } from "@roost/contract";
import type { Template } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";
import { must, type Logger } from "@roost/kit";

import type { Guests } from "../../guest/guests.ts";
import type { HostLink } from "../../hosts/host-link.ts";
import type { Hosts } from "../../hosts/hosts.ts";
import type { Sandboxes } from "../../sandboxes/sandboxes.ts";
import { patiently, withSandbox, type BuildSandboxes } from "./build-sandbox.ts";
import { findSource, hostTemplateFor, sourceFromTemplate, type BuildSource } from "./build-source.ts";
import { chooseHost } from "./choose-host.ts";
import { attributed, BuildFailed, isSandboxLost, messageOf } from "./failures.ts";
import { takeOver } from "./earlier-result.ts";
import { commandsOf, finalize, finalizeLabel } from "./finalize.ts";
import { cachedPrefix } from "./plan.ts";
import type { Progress } from "./progress.ts";
import { mainSource, outerSources, planRecipe, type OuterSource, type PlannedChain } from "./recipe-plan.ts";
import { noLogin, registryOf, type RegistryLogin } from "./registry-credentials.ts";
import { freeze, StepChain, type ChainEnd } from "./step-chain.ts";
import { keyOfResult, layerName } from "./step-keys.ts";

/** As `buildStepSchema` says */
const baseLabel = "base";

export interface RunParts {
  readonly teamId: string;
  readonly buildId: string;
  readonly recipe: Recipe;
  readonly vcpus: number;
  readonly memoryMib: number;
  /** Name of the result on its host */
  readonly hostTemplate: string;
  readonly hosts: Hosts;
  readonly sandboxes: Pick<Sandboxes, "createForBuild" | "deleteForBuild">;
  readonly guests: Pick<Guests, "of">;
  /** What a name means to the team, other than a base template */
  readonly resolve: (name: string) => Promise<{ readonly hostTemplate: string } | undefined>;
  /** Undefined: nobody uploaded it */
  readonly openFiles: (hash: string) => Promise<Readable | undefined>;
  readonly login: () => Promise<RegistryLogin>;
  /** Hosts that built this template before, the newest first */
  readonly preferredHosts: readonly (string | null)[];
  readonly onHost: (hostId: string) => Promise<void>;
  /** What was fetched for this build on that host before a restart, by `nameOfSource`: it needs no credentials again, and is the same */
  readonly fetched: (hostId: string) => Readonly<Record<string, BuildSource>>;
  readonly onFetched: (name: string, source: BuildSource) => Promise<void>;
  /** Templates on a host that builds made which did the very same */
  readonly earlierResults: (resultKey: string, hostId: string) => Promise<readonly string[]>;
  readonly progress: Progress;
  readonly signal: AbortSignal;
  readonly log: Logger;
}

export interface BuildResult {
  readonly host: HostLink;
  readonly template: Template;
  /** Of all that the template follows from */
  readonly resultKey: string;
}

/** Does a build on one host. Throws `BuildFailed`, or the signal's reason; none of its sandboxes is left then. */
export async function runBuild(parts: RunParts): Promise<BuildResult> {
  const { recipe, signal } = parts;
  let label = baseLabel;
  try {
    const host = await pickHost(parts);
    const fetched = parts.fetched(host.id);
    await parts.onHost(host.id);
    const sandboxes = sandboxesOn(host, parts);
    const sources = new Map<OuterSource, BuildSource>();
    for (const source of outerSources(recipe)) sources.set(source, await onHost(source, host, fetched, parts));
    const planned = planRecipe(recipe, (source) => must(sources.get(source), "a source that was found"));
    const chains = chainsFor(planned, sandboxes, parts);
    const { main } = planned;
    const { hostTemplate, progress, vcpus, memoryMib } = parts;
    const { key, context } = main.plan;
    const resultKey = keyOfResult({ key, context, ...commandsOf(recipe, main.inherited), vcpus, memoryMib });
    const isForced = recipe.force || [main, ...planned.stages].some(({ plan }) => plan.steps.some((step) => step.isForced));
    const earlier = isForced ? undefined : await takeOver(await parts.earlierResults(resultKey, host.id), hostTemplate, sandboxes);
    if (earlier !== undefined) {
      for (const chain of [...chains.stages, chains.main]) await chain.sayAllCached();
      await progress.say("info", finalizeLabel, "CACHED the template of an earlier build that did the same");
      return { host, template: earlier, resultKey };
    }
    const end = await chains.main.end();
    for (const chain of chains.stages) chain.skip();
    label = finalizeLabel;
    const template = await finalize(end, {
      sandboxes,
      progress,
      recipe,
      inherited: main.inherited,
      context,
      hostTemplate,
    });
    return { host, template, resultKey };
  } catch (error) {
    signal.throwIfAborted();
    throw attributed(error, label);
  }
}

function sandboxesOn(host: HostLink, { sandboxes, guests, teamId, buildId, vcpus, memoryMib, signal, log }: RunParts): BuildSandboxes {
  return { sandboxes, guests, teamId, buildId, host, vcpus, memoryMib, signal, log };
}

async function pickHost(parts: RunParts): Promise<HostLink> {
  const { teamId, recipe, hosts, preferredHosts, signal, log } = parts;
  const outer = outerSources(recipe);
  const names = new Map<OuterSource, string>();
  for (const source of outer) if ("template" in source) names.set(source, await hostTemplateFor(source.template, parts));
  const cachedSteps = async (host: HostLink) => {
    if (names.size < outer.length) return 0; // what an image is, is known when it was fetched
    const sources = new Map<OuterSource, BuildSource>();
    for (const [source, name] of names) sources.set(source, await sourceFromTemplate(host, name, { name, teamId }));
    const { main } = planRecipe(recipe, (source) => must(sources.get(source), "a source on a host"));
    const there = new Set((await host.describe()).templates.map(({ name }) => name));
    return cachedPrefix(main.plan.steps, (layer, { isForced }) => !isForced && there.has(layer));
  };
  return patiently(signal, log, () =>
    chooseHost(hosts, { teamId, templates: [...new Set(names.values())], preferred: preferredHosts, cachedSteps }),
  );
}

async function onHost(
  source: OuterSource,
  host: HostLink,
  fetched: Readonly<Record<string, BuildSource>>,
  parts: RunParts,
): Promise<BuildSource> {
  const { teamId, recipe, openFiles, login, progress, signal, log } = parts;
  const name = nameOfSource(source);
  const before = fetched[name];
  if (before !== undefined) {
    const { templates } = await patiently(signal, log, () => host.describe(0));
    if (templates.some((template) => template.name === before.hostTemplate)) return before;
  }
  const found = await patiently(signal, log, () =>
    findSource(source, {
      teamId,
      host,
      hostTemplateOf: (name) => hostTemplateFor(name, parts),
      openFiles: (hash) => opened(openFiles, hash),
      login: async () => (isForCredentials(source, recipe) ? login() : noLogin),
      force: recipe.force,
      say: (line) => progress.say("info", baseLabel, line),
      signal,
    }),
  );
  if (!("template" in source)) await parts.onFetched(name, found);
  return found;
}

/** Of a source within its recipe. */
function nameOfSource(source: OuterSource): string {
  return JSON.stringify(source);
}

/** Credentials are for the registry of what the main steps begin from, and are shown to no other one. */
function isForCredentials(source: OuterSource, recipe: Recipe): boolean {
  const main = mainSource(recipe);
  return "image" in source && "image" in main && registryOf(source.image) === registryOf(main.image);
}

function chainsFor(
  planned: { readonly stages: readonly PlannedChain[]; readonly main: PlannedChain },
  sandboxes: BuildSandboxes,
  { openFiles, progress }: RunParts,
): { readonly stages: readonly StepChain[]; readonly main: StepChain } {
  const stages = new Map<string, StepChain>();
  const stageEnd = (name: string) => must(stages.get(name), "an earlier stage").end();
  const chainFor = ({ plan, from }: PlannedChain) =>
    new StepChain({
      plan,
      base: async () => (typeof from === "string" ? stageEnd(from) : diskOf(from, sandboxes)),
      stageEnd,
      openFiles: (hash) => opened(openFiles, hash),
      sandboxes,
      progress,
    });
  for (const chain of planned.stages) stages.set(must(chain.stage, "the stage's name"), chainFor(chain));
  return { stages: [...stages.values()], main: chainFor(planned.main) };
}

/** A template's disk, without what runs in its memory: that of one with memory is kept as a layer of its own. */
async function diskOf(source: BuildSource, sandboxes: BuildSandboxes): Promise<ChainEnd> {
  if (!source.hasMemory) return { hostTemplate: source.hostTemplate, pending: [] };
  const layer = layerName(source.key);
  const { host, signal, log } = sandboxes;
  const { templates } = await patiently(signal, log, () => host.describe(0));
  if (!templates.some(({ name }) => name === layer)) {
    try {
      await withSandbox(sandboxes, source.hostTemplate, ({ id }) => freeze(sandboxes, id, layer));
    } catch (error) {
      signal.throwIfAborted();
      if (!isSandboxLost(error)) throw attributed(error, baseLabel);
      throw new BuildFailed(baseLabel, `the template that the build begins from could not be started: ${messageOf(error)}`, {
        cause: error,
      });
    }
  }
  return { hostTemplate: layer, pending: [] };
}

async function opened(openFiles: RunParts["openFiles"], hash: string): Promise<Readable> {
  const stream = await openFiles(hash);
  if (stream !== undefined) return stream;
  throw new PlatformError("build_failed", `the files ${hash.slice(0, 12)}… are not here: upload them, then build again`);
}
