import type { TemplateDetail } from "@roost/sdk";

import type { CommandContext } from "../../context.ts";
import { exitCodes } from "../../failure.ts";
import { findBuild } from "./find-build.ts";

export async function setTags(
  context: CommandContext,
  name: string,
  tags: readonly string[],
  options: { readonly build?: string },
): Promise<number> {
  const client = await context.client();
  const { signal } = context;
  const buildId = options.build === undefined ? undefined : (await findBuild(client, options.build, signal)).id;
  let template: TemplateDetail | undefined;
  for (const tag of tags) template = await client.templates.tag(name, tag, { buildId, signal });
  if (context.isJson) await context.printJson(template);
  else for (const tag of tags) await context.print(`${bareName(name)}:${tag}`);
  return exitCodes.ok;
}

export async function removeTags(context: CommandContext, name: string, tags: readonly string[]): Promise<number> {
  const client = await context.client();
  for (const tag of tags) {
    await client.templates.untag(name, tag, { signal: context.signal });
    if (!context.isJson) await context.print(`${bareName(name)}:${tag}`);
  }
  if (context.isJson) await context.printJson({ removed: tags });
  return exitCodes.ok;
}

const bareName = (name: string) => name.replace(/:.*$/s, "");
