import { PlatformError, templateTagDefault } from "@roost/contract";
import { second, sleep, type Logger } from "@roost/kit";

import { systemCaller, type Actor } from "../accounts/caller.ts";
import {
  assignTags,
  deleteBuiltTemplate,
  ensureBuiltTemplate,
  findBuiltTemplate,
  findBuiltTemplateOfAnyTeam,
  findPublicTemplate,
  findTagged,
  listBuiltNames,
  listBuiltTemplates,
  listPublicTemplates,
  listTagged,
  listTags,
  removeTags,
  setPublic,
  type BuiltTemplateRow,
  type TagRow,
  type TellOfTemplate,
} from "../db/built-templates.ts";
import { listNewestBuilds, type NewestBuild } from "../db/builds.ts";
import type { Db } from "../db/database.ts";
import { ownedBy } from "../db/owned-id.ts";
import { findTeam, isOwnNamespace } from "../db/teams.ts";
import type { Hosts } from "../hosts/hosts.ts";
import { findBuild, requestCancel, type BuildRow } from "./build-store.ts";
import {
  hostTemplateOf,
  isBuildId,
  isTemplateId,
  newTemplateId,
  parseNewName,
  parseReference,
  shownName,
  templateNotFound,
  type TemplateReference,
} from "./names.ts";
import { tellOfTemplate, type TemplateNews } from "./template-events.ts";

/** Longest wait in `ms` for builds to end that go on when their template is deleted */
const cancelTimeoutMs = 30 * second;
/** Time between two looks whether they have, in `ms` */
const lookIntervalMs = 100;
/** Templates of other teams in one list */
const publicListedMax = 1_000;

/** A template with what its tags mean. */
export interface BuiltTemplate {
  readonly row: BuiltTemplateRow;
  /** As whoever asked knows it: another team's has a namespace */
  readonly name: string;
  readonly tags: readonly TagRow[];
  /** What its name means without a tag; undefined: nothing yet */
  readonly build: BuildRow | undefined;
}

export interface BuiltTemplatesDependencies {
  readonly db: Db;
  readonly hosts: Hosts;
  readonly log: Logger;
  /** There is something on hosts to be removed */
  readonly onRemoval: () => void;
  /** A build is to be cancelled */
  readonly onCancel: () => void;
  readonly now?: () => Date;
}

/** What a name means. */
export interface FoundTemplate {
  readonly row: BuiltTemplateRow;
  readonly reference: TemplateReference;
  /** Of the template, as whoever asked knows it */
  readonly name: string;
}

/** What sandboxes can be made from. */
export interface ResolvedBuild {
  readonly hostTemplate: string;
  readonly buildId: string;
  readonly templateId: string;
  readonly name: string;
}

/**
 * Templates that builds make: what their names and tags mean to a team. It may use its own and those that are public, which other teams know as `slug/name`, or by their id; it changes its own only.
 * What hosts have for them has names of its own, which users never see.
 */
export class BuiltTemplates {
  readonly #deps: BuiltTemplatesDependencies;

  constructor(deps: BuiltTemplatesDependencies) {
    this.#deps = deps;
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  /**
   * What a name means, written as `[namespace/]name[:tag]` with an id for either if need be. Undefined when there is no built template of that name; `template_not_found` when there is, but no
   * build of it that is ready has the tag.
   */
  async resolve(teamId: string, text: string): Promise<ResolvedBuild | undefined> {
    const found = await this.#findUsable(teamId, text);
    if (found === undefined) return undefined;
    const { row, reference, name } = found;
    const build = await this.#buildOf(row, reference.tag);
    return {
      hostTemplate: build.host_template ?? hostTemplateOf(build.id),
      buildId: build.id,
      templateId: row.id,
      name: shownName(name, reference.tag ?? templateTagDefault),
    };
  }

  /** The team's own; undefined when it has none of that name or id. */
  async findOwn(teamId: string, text: string): Promise<BuiltTemplateRow | undefined> {
    return (await this.#findOwn(teamId, text))?.row;
  }

  /** Whosever it is: for who has been let in otherwise. Undefined when there is none of that id. */
  async ofAnyTeam(id: string): Promise<BuiltTemplateRow | undefined> {
    return findBuiltTemplateOfAnyTeam(this.#deps.db, id);
  }

  /** Own or another's that the team may use; undefined when there is none. */
  async findUsable(teamId: string, text: string): Promise<FoundTemplate | undefined> {
    return this.#findUsable(teamId, text);
  }

  /** By id. */
  async namesOf(ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
    return listBuiltNames(this.#deps.db, ids);
  }

  /** The team's own. Throws `template_not_found`. */
  async find(teamId: string, text: string): Promise<BuiltTemplateRow> {
    return (await this.#find(teamId, text)).row;
  }

  /** One that the team may use. With a tag: as that means it; `template_not_found` when there is no such tag. */
  async get(teamId: string, text: string): Promise<BuiltTemplate> {
    const { db } = this.#deps;
    const found = await this.#findUsable(teamId, text);
    if (found === undefined) throw templateNotFound(text);
    const { row, reference, name } = found;
    const tags = await listTags(db, [row.id]);
    const build = reference.tag === undefined ? await findTagged(db, row.id, templateTagDefault) : await this.#buildOf(row, reference.tag);
    return { row, name, tags, build };
  }

  /** The team's own by name, then what others let it use, by namespace and name. */
  async list(teamId: string): Promise<BuiltTemplate[]> {
    const { db } = this.#deps;
    const others = await listPublicTemplates(db, teamId, publicListedMax);
    const rows = [
      ...(await listBuiltTemplates(db, teamId)).map((row) => ({ row, name: row.name })),
      ...others.map((row) => ({ row, name: `${row.slug}/${row.name}` })),
    ];
    const ids = rows.map(({ row }) => row.id);
    const tagsOf = new Map<string, TagRow[]>(ids.map((id) => [id, []]));
    for (const tag of await listTags(db, ids)) tagsOf.get(tag.template_id)?.push(tag);
    const buildOf = new Map((await listTagged(db, ids)).map((build) => [build.id, build]));
    return rows.map(({ row, name }) => {
      const tags = tagsOf.get(row.id) ?? [];
      const holder = tags.find(({ tag }) => tag === templateTagDefault);
      return { row, name, tags, build: holder && buildOf.get(holder.build_id) };
    });
  }

  /** Of the team's own, by template: its newest build, in whatever state. */
  async newestBuilds(teamId: string): Promise<ReadonlyMap<string, NewestBuild>> {
    return listNewestBuilds(this.#deps.db, teamId);
  }

  /** A name for a new template or build of the team's, with its tag if there is one. Throws `request_invalid`. */
  async parseNewName(teamId: string, text: string): Promise<TemplateReference> {
    const namespace = parseReference(text)?.namespace;
    const isOwn = namespace !== undefined && (await isOwnNamespace(this.#deps.db, teamId, namespace));
    return parseNewName(text, isOwn ? namespace : await this.#slugOf(teamId));
  }

  /** The team's template of that name, made when there is none. `template_exists` when something else is called that. */
  async ensure(teamId: string, name: string, actor: Actor = systemCaller(teamId).actor): Promise<BuiltTemplateRow> {
    const { db, hosts } = this.#deps;
    const known = await findBuiltTemplate(db, teamId, name);
    if (known !== undefined) return known;
    const described = await hosts.describe(0);
    if (described.length === 0) throw new PlatformError("host_unreachable", "no host can be reached right now", { retryAfterSec: 5 });
    const isBase = described.some(({ description }) =>
      description.templates.some((template) => template.kind === "base" && template.name.toLowerCase().split(":", 1)[0] === name),
    );
    const made = isBase
      ? undefined
      : await ensureBuiltTemplate(
          db,
          { id: newTemplateId(), teamId, name },
          this.#now(),
          this.#tell("template.created", actor, "was begun"),
        );
    if (made !== undefined) return made;
    throw new PlatformError("template_exists", `"${name}" is the name of a ${isBase ? "base template" : "snapshot"}; take another`);
  }

  /** Deletes a template with all its builds. What goes on of them is cancelled first. */
  async delete(teamId: string, text: string, actor: Actor = systemCaller(teamId).actor): Promise<void> {
    const { db, log } = this.#deps;
    const { row, reference } = await this.#find(teamId, text);
    if (reference.tag !== undefined) {
      throw new PlatformError(
        "request_invalid",
        `"${row.name}" would be deleted with all its tags: leave out ":${reference.tag}", or remove the tag`,
      );
    }
    const end = performance.now() + cancelTimeoutMs;
    for (;;) {
      const obstacle = await deleteBuiltTemplate(
        db,
        row.id,
        hostTemplateOf,
        this.#now(),
        this.#tell("template.deleted", actor, "was deleted"),
      );
      if (obstacle === undefined) break;
      if ("sandboxIds" in obstacle) {
        throw new PlatformError(
          "template_in_use",
          `template "${row.name}" is used by ${obstacle.sandboxIds.join(", ")}; delete those sandboxes first`,
        );
      }
      for (const buildId of obstacle.openBuildIds) await requestCancel(db, ownedBy(row.team_id, buildId), this.#now());
      this.#deps.onCancel();
      if (performance.now() > end) {
        throw new PlatformError("template_in_use", `a build of template "${row.name}" is still being ended; try again`);
      }
      await sleep(lookIntervalMs);
    }
    log.info({ templateId: row.id, template: row.name }, "template deleted");
    this.#deps.onRemoval();
  }

  /** Lets tags mean what `text` means, or the build with an id; answers which that is. */
  async tag(
    teamId: string,
    text: string,
    tags: readonly string[],
    buildId?: string,
    actor: Actor = systemCaller(teamId).actor,
  ): Promise<{ readonly row: BuiltTemplateRow; readonly build: BuildRow }> {
    const { db } = this.#deps;
    const { row, reference } = await this.#find(teamId, text);
    const build = await this.#buildOf(row, buildId ?? reference.tag);
    const detail = { tags: tags.join(","), build_id: build.id };
    const tell = this.#tell("template.updated", actor, `has the tags ${tags.join(", ")} for build ${build.id}`, detail);
    if (!(await assignTags(db, { id: row.id, buildId: build.id, tags }, this.#now(), async (transaction) => tell(transaction, row)))) {
      throw buildNotFound(build.id);
    }
    return { row, build };
  }

  /** Tags that are not there are no error. The default one stays: the template's name means it. */
  async untag(teamId: string, text: string, tags: readonly string[], actor: Actor = systemCaller(teamId).actor): Promise<void> {
    const { row } = await this.#find(teamId, text);
    if (tags.includes(templateTagDefault)) {
      throw new PlatformError("request_invalid", `the tag "${templateTagDefault}" cannot be removed: it is what the template's name means`);
    }
    await removeTags(this.#deps.db, row.id, tags, async (transaction, removed) => {
      const list = removed.join(",");
      await this.#tell("template.updated", actor, `has the tags ${removed.join(", ")} no more`, { removed_tags: list })(transaction, row);
    });
  }

  /** Whether every team may use it. */
  async setPublic(teamId: string, text: string, isPublic: boolean, actor: Actor = systemCaller(teamId).actor): Promise<BuiltTemplateRow> {
    const { row, reference } = await this.#find(teamId, text);
    if (reference.tag !== undefined) {
      throw new PlatformError("request_invalid", `"${row.name}" is public or not with all its tags: leave out ":${reference.tag}"`);
    }
    const what = isPublic ? "was published: every team may use it" : "is its own team's again";
    await setPublic(this.#deps.db, row.id, isPublic, this.#tell("template.updated", actor, what, { is_public: String(isPublic) }));
    this.#deps.log.info({ templateId: row.id, template: row.name, isPublic }, "template published or taken back");
    return { ...row, is_public: isPublic };
  }

  #tell(kind: TemplateNews["kind"], actor: Actor, what: string, detail: Readonly<Record<string, string>> = {}): TellOfTemplate {
    return async (transaction, row) => tellOfTemplate(transaction, row, { kind, actor, what, detail, time: this.#now() });
  }

  async #find(teamId: string, text: string): Promise<FoundTemplate> {
    const found = await this.#findOwn(teamId, text);
    if (found === undefined) throw templateNotFound(text);
    return found;
  }

  async #findOwn(teamId: string, text: string): Promise<FoundTemplate | undefined> {
    const reference = parseReference(text);
    if (reference === undefined) return undefined;
    if (reference.namespace !== undefined && !(await isOwnNamespace(this.#deps.db, teamId, reference.namespace))) return undefined;
    const row = await findBuiltTemplate(this.#deps.db, teamId, reference.name);
    return row && { row, reference, name: row.name };
  }

  async #findUsable(teamId: string, text: string): Promise<FoundTemplate | undefined> {
    const own = await this.#findOwn(teamId, text);
    if (own !== undefined) return own;
    const reference = parseReference(text);
    if (reference === undefined || (reference.namespace === undefined && !isTemplateId(reference.name))) return undefined;
    const row = await findPublicTemplate(this.#deps.db, reference.namespace, reference.name);
    return row && { row, reference, name: `${row.slug}/${row.name}` };
  }

  async #slugOf(teamId: string): Promise<string> {
    return (await findTeam(this.#deps.db, teamId))?.slug ?? "";
  }

  /** The build that is ready and has a tag, or an id. */
  async #buildOf(row: BuiltTemplateRow, tag = templateTagDefault): Promise<BuildRow> {
    const { db } = this.#deps;
    if (isBuildId(tag)) {
      const build = await findBuild(db, ownedBy(row.team_id, tag));
      if (build === undefined || build.template_id !== row.id) throw buildNotFound(tag);
      if (build.state !== "ready")
        throw new PlatformError("build_wrong_state", `build ${tag} is ${build.state}; only one that is ready can be used`);
      return build;
    }
    const build = await findTagged(db, row.id, tag);
    if (build !== undefined) return build;
    const tags = (await listTags(db, [row.id])).map((each) => each.tag);
    const there = tags.length === 0 ? "no build of it is ready yet" : `it has: ${tags.join(", ")}`;
    throw new PlatformError("template_not_found", `template "${row.name}" has no tag "${tag}"; ${there}`);
  }
}

export function buildNotFound(id: string): PlatformError {
  return new PlatformError("build_not_found", `there is no build ${id}`);
}
