import { sql, type Selectable } from "kysely";

import type { BuildRow } from "../templates/build-store.ts";
import type { Db } from "./database.ts";
import type { BuiltTemplateTable, TemplateTagTable } from "./schema.ts";
import { lockTeam } from "./teams.ts";

/** Records of templates that builds make, and of their tags. */

export type BuiltTemplateRow = Selectable<BuiltTemplateTable>;
export type TagRow = Selectable<TemplateTagTable>;

/** A team's, by id or name. */
export async function findBuiltTemplate(db: Db, teamId: string, reference: string): Promise<BuiltTemplateRow | undefined> {
  return db
    .selectFrom("built_template")
    .selectAll()
    .where("team_id", "=", teamId)
    .where((row) => row.or([row("id", "=", reference), row("name", "=", reference)]))
    .executeTakeFirst();
}

/** By id, whosever it is. */
export async function findBuiltTemplateOfAnyTeam(db: Db, id: string): Promise<BuiltTemplateRow | undefined> {
  return db.selectFrom("built_template").selectAll().where("id", "=", id).executeTakeFirst();
}

/** One that another team lets everybody use, with the namespace that it is known under. */
export interface PublicTemplateRow extends BuiltTemplateRow {
  readonly slug: string;
}

function publicTemplates(db: Db) {
  return db
    .selectFrom("built_template")
    .innerJoin("team", "team.id", "built_template.team_id")
    .selectAll("built_template")
    .select("team.slug")
    .where("built_template.is_public", "=", true)
    .where("team.time_deleted", "is", null);
}

/** By namespace and name or id, or by id alone. */
export async function findPublicTemplate(db: Db, slug: string | undefined, reference: string): Promise<PublicTemplateRow | undefined> {
  return publicTemplates(db)
    .where((row) =>
      slug === undefined
        ? row("built_template.id", "=", reference)
        : row.and([
            row("team.slug", "=", slug),
            row.or([row("built_template.id", "=", reference), row("built_template.name", "=", reference)]),
          ]),
    )
    .executeTakeFirst();
}

/** At most `limit` of what other teams let everybody use, by namespace and name. */
export async function listPublicTemplates(db: Db, teamId: string, limit: number): Promise<PublicTemplateRow[]> {
  return publicTemplates(db)
    .where("built_template.team_id", "<>", teamId)
    .orderBy("team.slug")
    .orderBy("built_template.name")
    .limit(limit)
    .execute();
}

/** Tells of a change of a template, in the transaction that makes it. */
export type TellOfTemplate = (transaction: Db, template: BuiltTemplateRow) => Promise<void>;

/** A team's template of that name, made when there is none; undefined when a snapshot of the team has the name, with or without a tag. */
export async function ensureBuiltTemplate(
  db: Db,
  { id, teamId, name }: { readonly id: string; readonly teamId: string; readonly name: string },
  now: Date,
  tell: TellOfTemplate = async () => undefined,
): Promise<BuiltTemplateRow | undefined> {
  return db.transaction().execute(async (transaction) => {
    await lockTeam(transaction, teamId);
    const known = await findBuiltTemplate(transaction, teamId, name);
    if (known !== undefined) return known;
    if (await hasSnapshotNamed(transaction, teamId, name)) return undefined;
    const made = await transaction
      .insertInto("built_template")
      .values({ id, team_id: teamId, name, is_public: false, time_created: now, time_updated: now })
      .returningAll()
      .executeTakeFirstOrThrow();
    await tell(transaction, made);
    return made;
  });
}

/** Whether a team has a snapshot, or is making one, whose name less its tag is this in lower case. */
async function hasSnapshotNamed(db: Db, teamId: string, name: string): Promise<boolean> {
  const row = await db
    .selectFrom("snapshot")
    .select("id")
    .where("team_id", "=", teamId)
    .where("state", "<>", "abandoned")
    .where(sql<string>`split_part(lower(name), ':', 1)`, "=", name)
    .limit(1)
    .executeTakeFirst();
  return row !== undefined;
}

/** By id. */
export async function listBuiltNames(db: Db, ids: readonly string[]): Promise<ReadonlyMap<string, string>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .selectFrom("built_template")
    .select(["id", "name"])
    .where("id", "in", [...new Set(ids)])
    .execute();
  return new Map(rows.map(({ id, name }) => [id, name]));
}

/** Keeps a template from being deleted until the transaction ends; false when it is gone already. */
export async function lockBuiltTemplate(db: Db, id: string): Promise<boolean> {
  return (await db.selectFrom("built_template").select("id").where("id", "=", id).forShare().executeTakeFirst()) !== undefined;
}

/** A team's, by name. */
export async function listBuiltTemplates(db: Db, teamId: string): Promise<BuiltTemplateRow[]> {
  return db.selectFrom("built_template").selectAll().where("team_id", "=", teamId).orderBy("name").execute();
}

/** Ids of all teams' templates. */
export async function listBuiltTemplateIds(db: Db): Promise<string[]> {
  return (await db.selectFrom("built_template").select("id").execute()).map((row) => row.id);
}

/** Nothing is told of what is so already. */
export async function setPublic(db: Db, id: string, isPublic: boolean, tell: TellOfTemplate): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    const changed = await transaction
      .updateTable("built_template")
      .set({ is_public: isPublic })
      .where("id", "=", id)
      .where("is_public", "<>", isPublic)
      .returningAll()
      .executeTakeFirst();
    if (changed !== undefined) await tell(transaction, changed);
  });
}

/** Of these templates, by template and tag. */
export async function listTags(db: Db, templateIds: readonly string[]): Promise<TagRow[]> {
  if (templateIds.length === 0) return [];
  return db.selectFrom("template_tag").selectAll().where("template_id", "in", templateIds).orderBy("template_id").orderBy("tag").execute();
}

/** The build that a tag of a template means. */
export async function findTagged(db: Db, templateId: string, tag: string): Promise<BuildRow | undefined> {
  return db
    .selectFrom("build")
    .selectAll("build")
    .innerJoin("template_tag", "template_tag.build_id", "build.id")
    .where("template_tag.template_id", "=", templateId)
    .where("template_tag.tag", "=", tag)
    .where("build.state", "=", "ready")
    .executeTakeFirst();
}

/** Builds of these templates that are ready and have a tag. */
export async function listTagged(db: Db, templateIds: readonly string[]): Promise<BuildRow[]> {
  if (templateIds.length === 0) return [];
  return db
    .selectFrom("build")
    .selectAll()
    .where("template_id", "in", templateIds)
    .where("state", "=", "ready")
    .where((row) => row.exists(row.selectFrom("template_tag").select("tag").whereRef("template_tag.build_id", "=", "build.id")))
    .execute();
}

/** Lets tags mean a build from now on; false when it is not ready, or gone. */
export async function assignTags(
  db: Db,
  { id: templateId, buildId, tags }: { readonly id: string; readonly buildId: string; readonly tags: readonly string[] },
  now: Date,
  tell: (transaction: Db) => Promise<void>,
): Promise<boolean> {
  return db.transaction().execute(async (transaction) => {
    const build = await transaction
      .selectFrom("build")
      .select("id")
      .where("id", "=", buildId)
      .where("template_id", "=", templateId)
      .where("state", "=", "ready")
      .forShare()
      .executeTakeFirst();
    if (build === undefined) return false;
    await transaction
      .insertInto("template_tag")
      .values(tags.map((tag) => ({ template_id: templateId, tag, build_id: buildId, time_created: now })))
      .onConflict((conflict) => conflict.columns(["template_id", "tag"]).doUpdateSet({ build_id: buildId, time_created: now }))
      .execute();
    await tell(transaction);
    return true;
  });
}

/** Tells which of them there were. */
export async function removeTags(
  db: Db,
  templateId: string,
  tags: readonly string[],
  tell: (transaction: Db, removed: readonly string[]) => Promise<void>,
): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    const removed = await transaction
      .deleteFrom("template_tag")
      .where("template_id", "=", templateId)
      .where("tag", "in", tags)
      .returning("tag")
      .execute();
    if (removed.length > 0)
      await tell(
        transaction,
        removed.map(({ tag }) => tag),
      );
  });
}

/** What keeps a template from being deleted; undefined: it is deleted, with its builds and tags. */
export type Obstacle = { readonly sandboxIds: readonly string[] } | { readonly openBuildIds: readonly string[] };

/** Sandboxes that are named in an obstacle */
const sandboxesNamedMax = 5;

/**
 * Deletes a template, unless sandboxes of its team came from it or a build of it goes on. What hosts have of it is noted for removal. Sandboxes that
 * other teams made of it while it was public go on: they need nothing of it, and nobody may keep another team's template from being deleted.
 */
export async function deleteBuiltTemplate(
  db: Db,
  id: string,
  hostTemplateOf: (buildId: string) => string,
  now: Date,
  tell: TellOfTemplate = async () => undefined,
): Promise<Obstacle | undefined> {
  return db.transaction().execute(async (transaction) => {
    // from here on no sandbox can come from them (see `lockBuild`), and no build can be added
    const template = await transaction.selectFrom("built_template").selectAll().where("id", "=", id).forUpdate().executeTakeFirst();
    if (template === undefined) return undefined;
    const builds = await transaction.selectFrom("build").select(["id", "state"]).where("template_id", "=", id).forUpdate().execute();
    const ids = builds.map((build) => build.id);
    const open = builds.filter(({ state }) => state === "waiting" || state === "building").map((build) => build.id);
    if (open.length > 0) return { openBuildIds: open };
    if (ids.length > 0) {
      const used = await transaction
        .selectFrom("sandbox")
        .select("id")
        .where("template_build_id", "in", ids)
        .where("team_id", "=", template.team_id)
        .where("state", "<>", "stopped")
        .limit(sandboxesNamedMax)
        .execute();
      if (used.length > 0) return { sandboxIds: used.map((row) => row.id) };
      await removeFromHosts(transaction, ids.map(hostTemplateOf), now);
    }
    await transaction.deleteFrom("built_template").where("id", "=", id).execute();
    await tell(transaction, template);
    return undefined;
  });
}

/** Forgets a build that has ended and has no tag; what its host has of it is noted for removal. */
export async function forgetBuild(db: Db, id: string, hostTemplate: string, now: Date): Promise<void> {
  await db.transaction().execute(async (transaction) => {
    await transaction.selectFrom("build").select("id").where("id", "=", id).forUpdate().execute();
    const deleted = await transaction
      .deleteFrom("build")
      .where("id", "=", id)
      .where("state", "in", ["ready", "failed", "cancelled"])
      .where((row) => row.not(row.exists(row.selectFrom("template_tag").select("tag").whereRef("template_tag.build_id", "=", "build.id"))))
      .where((row) =>
        row.not(
          row.exists(
            row
              .selectFrom("sandbox")
              .select("sandbox.id")
              .whereRef("sandbox.template_build_id", "=", "build.id")
              .where("sandbox.state", "<>", "stopped"),
          ),
        ),
      )
      .executeTakeFirst();
    if (deleted.numDeletedRows > 0n) await removeFromHosts(transaction, [hostTemplate], now);
  });
}

/** Templates without any build, older than `before`: files were uploaded for one that nobody asked for. */
export async function forgetEmptyTemplates(db: Db, before: Date): Promise<void> {
  await db
    .deleteFrom("built_template")
    .where("time_updated", "<", before)
    .where((row) => row.not(row.exists(row.selectFrom("build").select("build.id").whereRef("build.template_id", "=", "built_template.id"))))
    .execute();
}

/** Notes what hosts are to delete. */
export async function removeFromHosts(db: Db, names: readonly string[], now: Date): Promise<void> {
  await db
    .insertInto("template_removal")
    .values(names.map((name) => ({ name, time_created: now })))
    .onConflict((conflict) => conflict.column("name").doNothing())
    .execute();
}

/** Oldest first. */
export async function listRemovals(db: Db, limit: number): Promise<string[]> {
  const rows = await db.selectFrom("template_removal").select("name").orderBy("time_created").orderBy("name").limit(limit).execute();
  return rows.map((row) => row.name);
}

export async function removalDone(db: Db, name: string): Promise<void> {
  await db.deleteFrom("template_removal").where("name", "=", name).execute();
}
