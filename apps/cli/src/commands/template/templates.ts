import { formatBytes } from "@roost/kit";
import type { Template, TemplateDetail } from "@roost/sdk";

import type { CommandContext } from "../../context.ts";
import { exitCodes } from "../../failure.ts";
import { formatAgo, formatMemory } from "../../output/format.ts";
import { printable } from "../../output/printable.ts";
import { formatFields, formatTable } from "../../output/table.ts";
import { removeNamed } from "../remove-named.ts";

const MiB = 1024 * 1024;

export async function listTemplates(context: CommandContext, options: { readonly quiet?: boolean }): Promise<number> {
  const client = await context.client();
  const templates = await client.templates.list({ signal: context.signal });
  if (options.quiet === true) for (const { name } of templates) await context.print(name);
  else if (context.isJson) await context.printJson(templates);
  else if (templates.length === 0) await context.note("no templates; `roost template build` makes one");
  else await context.print(formatTemplates(context, templates));
  return exitCodes.ok;
}

function formatTemplates(context: CommandContext, templates: readonly Template[]): string {
  const rows = templates.map((template) => [template.name, template.kind, template.tags.join(" "), ...contentOf(template)]);
  return formatTable(context.colors, ["NAME", "KIND", "TAGS", "HOLDS", "VCPUS", "MEMORY", "DISK"], rows);
}

/** What the name itself means; nothing while no build has the tag that it stands for. */
function contentOf(template: Template): string[] {
  if (template.kind === "built" && template.build_id === null) return ["", "", "", ""];
  return [
    template.has_memory ? "memory, disk" : "disk",
    template.vcpus === null ? "any" : `${template.vcpus}`,
    template.memory_mb === null ? "any" : formatMemory(template.memory_mb),
    formatBytes(template.disk_mb * MiB),
  ];
}

export async function getTemplate(context: CommandContext, name: string): Promise<number> {
  const client = await context.client();
  const template = await client.templates.get(name, { signal: context.signal });
  if (context.isJson) await context.printJson(template);
  else await context.print(formatFields(context.colors, fieldsOf(template)));
  return exitCodes.ok;
}

function fieldsOf(template: TemplateDetail): [string, string | undefined][] {
  const { defaults } = template;
  const unlessEmpty = (text: string) => (text === "" ? undefined : printable(text));
  return [
    ["name", template.name],
    ["kind", template.kind],
    ["public", template.is_public ? "yes: every team may use it" : undefined],
    ["id", template.id ?? undefined],
    ["build", template.build_id ?? undefined],
    ["tags", template.tag_builds.map(({ tag, build_id: build }) => `${tag} ${build}`).join("\n") || undefined],
    ["holds", template.has_memory ? "memory, disk" : "disk"],
    ["size", template.vcpus === null ? undefined : `${template.vcpus} CPUs, ${formatMemory(template.memory_mb ?? 0)}`],
    ["disk", formatBytes(template.disk_mb * MiB)],
    ["user", unlessEmpty(defaults.user)],
    ["folder", unlessEmpty(defaults.workdir)],
    ["environment", Object.keys(defaults.envs).map(printable).join(" ") || undefined],
    ["starts", unlessEmpty(defaults.start_command)],
    ["ready when", unlessEmpty(defaults.ready_command)],
    ["created", formatAgo(template.created_at)],
    ["updated", formatAgo(template.updated_at)],
  ];
}

/** Lets every team use templates, or only their own again; the first that cannot be changed ends it. */
export async function setPublic(context: CommandContext, names: readonly string[], isPublic: boolean): Promise<number> {
  const { templates } = await context.client();
  const { signal } = context;
  const changed: TemplateDetail[] = [];
  for (const name of names) {
    const template = isPublic ? await templates.publish(name, { signal }) : await templates.unpublish(name, { signal });
    changed.push(template);
    if (!context.isJson) await context.print(template.name);
  }
  if (context.isJson) await context.printJson(changed);
  return exitCodes.ok;
}

export async function removeTemplates(context: CommandContext, names: readonly string[]): Promise<number> {
  const client = await context.client();
  return removeNamed(context, names, async (name) => client.templates.delete(name, { signal: context.signal }));
}
