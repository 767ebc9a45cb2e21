import { newSandboxId, PlatformError, templateNameSchema, templateTagDefault } from "@roost/contract";

import { parseReference, shownName } from "../templates/names.ts";

/**
 * E2B's names: `[namespace/]name[:tag]`. A namespace is a team's slug, and without a tag `default` is meant; a template's own name is `name` or
 * `name:tag` (see `templateNameSchema`).
 */

/** Characters of a name that are repeated to the caller */
const shownMax = 80;
const unnamedPattern = /^s[a-z0-9]{20}$/;

/** The template that a name means, with its namespace if it has one; undefined when nothing can have that name. */
export function templateNamed(text: string): string | undefined {
  const [, namespace = "", name = "", tag = templateTagDefault] =
    /^([a-zA-Z0-9][a-zA-Z0-9._-]*\/)?([^/:]+)(?::([^/:]+))?$/.exec(text) ?? [];
  const parsed = templateNameSchema.safeParse(tag === templateTagDefault ? name : `${name}:${tag}`);
  return parsed.success ? namespace.toLowerCase() + parsed.data : undefined;
}

/** The same, of a template that is to be there; a built one may have names that others cannot. */
export function existingTemplate(text: string): string {
  const name = templateNamed(text);
  if (name !== undefined) return name;
  const reference = parseReference(text);
  if (reference !== undefined) {
    const namespace = reference.namespace === undefined ? "" : `${reference.namespace}/`;
    return namespace + shownName(reference.name, reference.tag ?? templateTagDefault);
  }
  if (/:$|^(?:[^/:]*\/)?:/.test(text)) {
    throw new PlatformError(
      "request_invalid",
      `${JSON.stringify(text.slice(0, shownMax))} is not accepted: written as name or name:tag, neither empty`,
    );
  }
  throw templateNotFound(text);
}

/** The same, for a new snapshot; one that is not given a name gets one that nobody else has. */
export function newSnapshotName(text: string | undefined): string {
  if (text === undefined) return newSandboxId().replace(/^i/, "s");
  const name = templateNamed(text);
  if (name !== undefined) return name;
  throw new PlatformError(
    "request_invalid",
    `name: ${JSON.stringify(text.slice(0, shownMax))} is not accepted: written as name or name:tag, each a letter or digit and then letters, digits, '.', '_' and '-'`,
  );
}

/** `name:tag`, also where the tag is the default. */
export function fullName(template: string): string {
  return template.includes(":") ? template : `${template}:${templateTagDefault}`;
}

/** All names that mean a template; none for a snapshot that was made without. */
export function namesOf(template: string): string[] {
  if (unnamedPattern.test(template)) return [];
  return template.includes(":") ? [template] : [fullName(template), template];
}

export function templateNotFound(text: string): PlatformError {
  return new PlatformError("template_not_found", `there is no template "${text.slice(0, shownMax)}"`);
}
