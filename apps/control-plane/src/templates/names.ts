import { isHostTemplateName, newSandboxId, PlatformError, templatePartLengthMax, templateTagDefault } from "@roost/contract";

/**
 * Names of built templates, as E2B has them: `[namespace/]name[:tag]`, in any case, lower-cased. A namespace is the slug of a team; without one the caller's is meant. Instead of the name there
 * may be the template's id, and instead of the tag the id of a build.
 */

const namePattern = /^[a-z0-9_-]+$/;
const tagPattern = /^[a-z0-9_.-]+$/;
const namespacePattern = /^[a-z0-9][a-z0-9._-]*$/;
const uuidPattern = /^[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;
const templateIdPattern = /^t[a-z0-9]{20}$/;
/** Characters of a name that are repeated to the caller */
const shownMax = 80;

/** What a caller means by a name. */
export interface TemplateReference {
  /** Slug of a team; undefined: not said */
  readonly namespace: string | undefined;
  /** Name or id */
  readonly name: string;
  /** Tag or id of a build; undefined: not said */
  readonly tag: string | undefined;
}

/** Undefined when nothing can have that name. */
export function parseReference(text: string): TemplateReference | undefined {
  const [, namespace, name = "", tag] = /^(?:([^/:]*)\/)?([^/:]*)(?::([^/:]*))?$/.exec(text.toLowerCase()) ?? [];
  if (namespace !== undefined && !namespacePattern.test(namespace)) return undefined;
  if (!namePattern.test(name) || name.length > templatePartLengthMax) return undefined;
  if (tag !== undefined && (!tagPattern.test(tag) || tag.length > templatePartLengthMax)) return undefined;
  return { namespace, name, tag };
}

/** The namespace of any template's name, and the name without it, as they are written. */
export function splitNamespace(text: string): { readonly namespace: string | undefined; readonly name: string } {
  const slash = text.indexOf("/");
  return slash < 0 ? { namespace: undefined, name: text } : { namespace: text.slice(0, slash), name: text.slice(slash + 1) };
}

/** A name for a new template, with its tag if there is one; throws where it cannot be one. Of a namespace only the own one: `slug`. */
export function parseNewName(text: string, slug: string): TemplateReference {
  const reference = parseReference(text);
  if (reference !== undefined && reference.namespace !== undefined && reference.namespace !== slug) {
    throw invalid("name", text, `templates are built in the namespace of one's own team, which is "${slug}"; it can be left out`);
  }
  if (reference === undefined) {
    throw invalid(
      "name",
      text,
      `written as name or name:tag, each at most ${templatePartLengthMax} characters: the name of letters, digits, '-' and '_', the tag also of '.'`,
    );
  }
  if (isHostTemplateName(reference.name) || isTemplateId(reference.name))
    throw invalid("name", text, "names like that are the platform's own");
  if (reference.tag !== undefined) requireTag(reference.tag);
  return reference;
}

/** A tag that a build may be given. */
export function parseTag(text: string): string {
  const tag = text.toLowerCase();
  if (!tagPattern.test(tag) || tag.length > templatePartLengthMax) {
    throw invalid("tag", text, `a tag has at most ${templatePartLengthMax} letters, digits, '-', '_' and '.'`);
  }
  requireTag(tag);
  return tag;
}

function requireTag(tag: string): void {
  if (isBuildId(tag)) throw invalid("tag", tag, "a tag cannot be a UUID: that is the id of a build");
}

function invalid(what: string, text: string, why: string): PlatformError {
  return new PlatformError("request_invalid", `${what}: ${JSON.stringify(text.slice(0, shownMax))} is not accepted: ${why}`);
}

export function isBuildId(text: string): boolean {
  return uuidPattern.test(text);
}

export function isTemplateId(text: string): boolean {
  return templateIdPattern.test(text);
}

export function newTemplateId(): string {
  return newSandboxId().replace(/^i/, "t");
}

/** Name of a snapshot on its host. */
export function hostTemplateOfSnapshot(snapshotId: string): string {
  return `snapshot-${snapshotId.replaceAll("-", "")}`;
}

/** Name of a build's template on its host. */
export function hostTemplateOf(buildId: string): string {
  return `build-${buildId.replaceAll("-", "")}`;
}

/** As users see it: without the tag that no tag means. */
export function shownName(name: string, tag: string): string {
  return tag === templateTagDefault ? name : `${name}:${tag}`;
}

export function templateNotFound(text: string): PlatformError {
  return new PlatformError("template_not_found", `there is no template "${text.slice(0, shownMax)}"`);
}
