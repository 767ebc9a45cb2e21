import { isHostTemplateName, PlatformError, templateTagDefault } from "@roost/contract";
import { second, sleep, type Logger } from "@roost/kit";

import {
  assignTags,
  deleteBuiltTemplate,
  ensureBuiltTemplate,
  findBuiltTemplate,
  findTagged,
  listBuiltNames,
  listBuiltTemplates,
  listTagged,
  listTags,
  removeTags,
  setPublic,
  type BuiltTemplateRow,
  type TagRow,
} from "../db/built-templates.ts";
import { listNewestBuilds, type NewestBuild } from "../db/builds.ts";
import type { Db } from "../db/database.ts";
import type { Hosts } from "../hosts/hosts.ts";
import type { ResolvedTemplate } from "../sandboxes/creates.ts";
import { findBuild, requestCancel, type BuildRow } from "./build-store.ts";
import { hostTemplateOf, isBuildId, newTemplateId, parseReference, shownName, templateNotFound, type TemplateReference } from "./names.ts";

/** Longest wait in `ms` for builds to end that go on when their template is deleted */
const cancelTimeoutMs = 30 * second;
/** Time between two looks whether they have, in `ms` */
const lookIntervalMs = 100;

/** A template with what its tags mean. */
export interface BuiltTemplate {
  readonly row: BuiltTemplateRow;
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

/** Templates that builds make: what their names and tags mean. What hosts have for them has names of its own, which users never see. */
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
  async resolve(text: string): Promise<ResolvedTemplate | undefined> {
    const reference = parseReference(text);
    const row = reference === undefined ? undefined : await findBuiltTemplate(this.#deps.db, reference.name);
    if (reference === undefined || row === undefined) return undefined;
    const build = await this.#buildOf(row, reference.tag);
    return {
      hostTemplate: build.host_template ?? hostTemplateOf(build.id),
      buildId: build.id,
      templateId: row.id,
      name: shownName(row.name, reference.tag ?? templateTagDefault),
    };
  }

  /** Undefined when there is none of that very name. */
  async findByName(name: string): Promise<BuiltTemplateRow | undefined> {
    return findBuiltTemplate(this.#deps.db, name);
  }

  /** By id. */
  async namesOf(ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
    return listBuiltNames(this.#deps.db, ids);
  }

  /** Throws `template_not_found`. */
  async find(text: string): Promise<BuiltTemplateRow> {
    return (await this.#find(text)).row;
  }

  /** With a tag: as that means it; `template_not_found` when there is no such tag. */
  async get(text: string): Promise<BuiltTemplate> {
    const { db } = this.#deps;
    const { row, reference } = await this.#find(text);
    const tags = await listTags(db, row.id);
    const build = reference.tag === undefined ? await findTagged(db, row.id, templateTagDefault) : await this.#buildOf(row, reference.tag);
    return { row, tags, build };
  }

  /** By name. */
  async list(): Promise<BuiltTemplate[]> {
    const { db } = this.#deps;
    const [rows, tags, builds] = [await listBuiltTemplates(db), await listTags(db), await listTagged(db)];
    const buildOf = new Map(builds.map((build) => [build.id, build]));
    return rows.map((row) => {
      const own = tags.filter((tag) => tag.template_id === row.id);
      const holder = own.find(({ tag }) => tag === templateTagDefault);
      return { row, tags: own, build: holder && buildOf.get(holder.build_id) };
    });
  }

  /** By template: its newest build, in whatever state. */
  async newestBuilds(): Promise<ReadonlyMap<string, NewestBuild>> {
    return listNewestBuilds(this.#deps.db);
  }

  /** The template of that name, made when there is none. `template_exists` when something else is called that. */
  async ensure(name: string): Promise<BuiltTemplateRow> {
    const { db, hosts } = this.#deps;
    const known = await findBuiltTemplate(db, name);
    if (known !== undefined) return known;
    const described = await hosts.describe(0);
    const taken = described
      .flatMap(({ description }) => description.templates)
      .find((template) => template.name.toLowerCase().split(":", 1)[0] === name && !isHostTemplateName(template.name));
    if (taken !== undefined) {
      throw new PlatformError(
        "template_exists",
        `"${taken.name}" is the name of a ${taken.kind === "base" ? "base template" : "snapshot"}; take another`,
      );
    }
    if (described.length === 0) throw new PlatformError("host_unreachable", "no host can be reached right now", { retryAfterSec: 5 });
    return ensureBuiltTemplate(db, { id: newTemplateId(), name }, this.#now());
  }

  /** Whether a snapshot of that name would be mistaken for a built template. */
  async hasNameOf(snapshot: string): Promise<boolean> {
    const [name = ""] = snapshot.toLowerCase().split(":", 1);
    return (await findBuiltTemplate(this.#deps.db, name)) !== undefined;
  }

  /** Deletes a template with all its builds. What goes on of them is cancelled first. */
  async delete(text: string): Promise<void> {
    const { db, log } = this.#deps;
    const { row, reference } = await this.#find(text);
    if (reference.tag !== undefined) {
      throw new PlatformError(
        "request_invalid",
        `"${row.name}" would be deleted with all its tags: leave out ":${reference.tag}", or remove the tag`,
      );
    }
    const end = performance.now() + cancelTimeoutMs;
    for (;;) {
      const obstacle = await deleteBuiltTemplate(db, row.id, hostTemplateOf, this.#now());
      if (obstacle === undefined) break;
      if ("sandboxIds" in obstacle) {
        throw new PlatformError(
          "template_in_use",
          `template "${row.name}" is used by ${obstacle.sandboxIds.join(", ")}; delete those sandboxes first`,
        );
      }
      for (const buildId of obstacle.openBuildIds) await requestCancel(db, buildId, this.#now());
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
    text: string,
    tags: readonly string[],
    buildId?: string,
  ): Promise<{ readonly row: BuiltTemplateRow; readonly build: BuildRow }> {
    const { db } = this.#deps;
    const { row, reference } = await this.#find(text);
    const build = await this.#buildOf(row, buildId ?? reference.tag);
    if (!(await assignTags(db, row.id, build.id, tags, this.#now()))) throw buildNotFound(build.id);
    return { row, build };
  }

  /** Tags that are not there are no error. The default one stays: the template's name means it. */
  async untag(text: string, tags: readonly string[]): Promise<void> {
    const { row } = await this.#find(text);
    if (tags.includes(templateTagDefault)) {
      throw new PlatformError("request_invalid", `the tag "${templateTagDefault}" cannot be removed: it is what the template's name means`);
    }
    await removeTags(this.#deps.db, row.id, tags);
  }

  async setPublic(text: string, isPublic: boolean): Promise<BuiltTemplateRow> {
    const { row } = await this.#find(text);
    await setPublic(this.#deps.db, row.id, isPublic);
    return { ...row, is_public: isPublic };
  }

  async #find(text: string): Promise<{ readonly row: BuiltTemplateRow; readonly reference: TemplateReference }> {
    const reference = parseReference(text);
    const row = reference === undefined ? undefined : await findBuiltTemplate(this.#deps.db, reference.name);
    if (reference === undefined || row === undefined) throw templateNotFound(text);
    return { row, reference };
  }

  /** The build that is ready and has a tag, or an id. */
  async #buildOf(row: BuiltTemplateRow, tag = templateTagDefault): Promise<BuildRow> {
    const { db } = this.#deps;
    if (isBuildId(tag)) {
      const build = await findBuild(db, tag);
      if (build === undefined || build.template_id !== row.id) throw buildNotFound(tag);
      if (build.state !== "ready")
        throw new PlatformError("build_wrong_state", `build ${tag} is ${build.state}; only one that is ready can be used`);
      return build;
    }
    const build = await findTagged(db, row.id, tag);
    if (build !== undefined) return build;
    const tags = (await listTags(db, row.id)).map((each) => each.tag);
    const there = tags.length === 0 ? "no build of it is ready yet" : `it has: ${tags.join(", ")}`;
    throw new PlatformError("template_not_found", `template "${row.name}" has no tag "${tag}"; ${there}`);
  }
}

export function buildNotFound(id: string): PlatformError {
  return new PlatformError("build_not_found", `there is no build ${id}`);
}
