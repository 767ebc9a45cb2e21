import type { Readable } from "node:stream";

import { isHostTemplateName, PlatformError, type RecipeSource } from "@roost/contract";
import type { ImageConfig } from "@roost/contract/gen/hostagent/v1/hostagent_pb.js";

import { callTimeoutMs, type HostLink } from "../../hosts/host-link.ts";
import type { Hosts } from "../../hosts/hosts.ts";
import { templateNotFound } from "../names.ts";
import { importImage, putArchive, type ImportSource } from "./import-image.ts";
import type { RegistryLogin } from "./registry-credentials.ts";
import { contextOf, type StepContext } from "./step-context.ts";
import { keyOfSource } from "./step-keys.ts";

/** What steps begin from, on a host. */
export interface BuildSource {
  /** Its name there */
  readonly hostTemplate: string;
  readonly key: string;
  readonly context: StepContext;
  /** What runs in its sandboxes; a recipe that does not say what runs takes it over */
  readonly startCommand: string;
  readonly readyCommand: string;
  /** Its sandboxes go on from memory, in its own sizes: only its disk is of use here */
  readonly hasMemory: boolean;
}

export interface SourceParts {
  /** Whose build it is */
  readonly teamId: string;
  readonly host: HostLink;
  /** Name on hosts of the template that a name means */
  readonly hostTemplateOf: (name: string) => Promise<string>;
  readonly openFiles: (hash: string) => Promise<Readable>;
  readonly login: () => Promise<RegistryLogin>;
  /** Nothing from the cache */
  readonly force: boolean;
  /** A line for the build's log */
  readonly say: (line: string) => Promise<void>;
  readonly signal: AbortSignal;
}

/** Finds what a recipe begins from on the build's host, or gets it there. */
export async function findSource(source: Exclude<RecipeSource, { readonly stage: string }>, parts: SourceParts): Promise<BuildSource> {
  const { host, say, signal } = parts;
  const { teamId } = parts;
  if ("template" in source) {
    return sourceFromTemplate(host, await parts.hostTemplateOf(source.template), { name: source.template, teamId });
  }
  await say(`FROM ${describeSource(source)}`);
  const image = await importImage(host, { source: await requestFor(source, parts), refresh: parts.force }, say, signal);
  if (!image.isNew) await say(`CACHED ${describeSource(source)}`);
  return {
    hostTemplate: image.template,
    key: keyOfSource(teamId, image.template), // which is named by what was imported, and by how
    context: "debian" in source ? contextOf({ user: "", workdir: "", envs: {} }) : contextFromImage(image.config),
    startCommand: "",
    readyCommand: "",
    hasMemory: false,
  };
}

/** The same for a template that a host has. */
export async function sourceFromTemplate(
  host: HostLink,
  hostTemplate: string,
  { name, teamId }: { readonly name: string; readonly teamId: string },
): Promise<BuildSource> {
  const { templates } = await host.call(() => host.client.listTemplates({}, { timeoutMs: callTimeoutMs }));
  const template = templates.find((candidate) => candidate.name === hostTemplate);
  if (template === undefined) throw templateNotFound(name);
  const { defaults } = template;
  return {
    hostTemplate,
    // What a build made is never changed, and its digest is, when its files are put in order
    key: keyOfSource(teamId, template.kind === "build" ? hostTemplate : template.digest),
    context: contextOf({ user: defaults?.user ?? "", workdir: defaults?.workdir ?? "", envs: defaults?.envs ?? {} }),
    startCommand: defaults?.startCommand ?? "",
    readyCommand: defaults?.readyCommand ?? "",
    hasMemory: template.vcpus > 0,
  };
}

/** Name on hosts of the template that a name means; throws `template_not_found`. `resolve`: of what is no base template. */
export async function hostTemplateFor(
  name: string,
  {
    hosts,
    teamId,
    resolve,
  }: {
    readonly teamId: string;
    readonly hosts: Pick<Hosts, "findBase">;
    readonly resolve: (name: string) => Promise<{ readonly hostTemplate: string } | undefined>;
  },
): Promise<string> {
  if (isHostTemplateName(name)) throw templateNotFound(name);
  if ((await hosts.findBase(name, teamId)) !== undefined) return name;
  const resolved = await resolve(name);
  if (resolved === undefined) throw templateNotFound(name);
  return resolved.hostTemplate;
}

async function requestFor(
  source: Exclude<RecipeSource, { readonly stage: string } | { readonly template: string }>,
  { host, openFiles, login, signal }: SourceParts,
): Promise<ImportSource> {
  if ("debian" in source) return { case: "debian", value: { ...source.debian } };
  if ("image" in source) return { case: "registry", value: { reference: source.image, ...(await login()) } };
  const archiveId = await putArchive(host, await openFiles(source.archive), signal);
  return { case: "archive", value: { archiveId } };
}

/** An image runs as root where it does not say otherwise. */
function contextFromImage(config: ImageConfig | undefined): StepContext {
  return contextOf({
    user: config === undefined || config.user === "" ? "root" : config.user,
    workdir: config === undefined || config.workdir === "" ? "/" : config.workdir,
    envs: config?.envs ?? {},
  });
}

function describeSource(source: RecipeSource): string {
  if ("image" in source) return source.image;
  if ("archive" in source) return `the uploaded archive ${source.archive.slice(0, 12)}`;
  if ("debian" in source) return `Debian ${source.debian.suite} with ${source.debian.packages.length} packages`;
  if ("template" in source) return source.template;
  return `stage ${source.stage}`;
}

/** No host can do this build: none is there, or none has what it begins from. */
export function nowhere(needed: readonly string[], isAnyHostThere: boolean): PlatformError {
  if (!isAnyHostThere)
    return new PlatformError("host_unreachable", "no host that takes new work can be reached right now", { retryAfterSec: 5 });
  return new PlatformError(
    "template_not_found",
    `no host that can be reached now has all that this build begins from: ${needed.join(", ")}`,
  );
}
