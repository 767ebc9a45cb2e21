import { buildEnded, type BuildState } from "@roost/contract";
import { sql } from "kysely";

import type { BuildRow } from "../templates/build-store.ts";
import type { Db } from "./database.ts";
import type { OwnedId } from "./owned-id.ts";
import type { BuildLogTable } from "./schema.ts";

/** Records of builds as users ask for them; what is written while one is worked at is in ../templates/build-store.ts. */

export interface NewBuild {
  readonly id: string;
  readonly teamId: string;
  readonly templateId: string;
  readonly tags: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
  readonly timeCreated: Date;
}

/** A build that has no recipe yet. */
export async function insertBuild(db: Db, build: NewBuild): Promise<BuildRow> {
  return db
    .insertInto("build")
    .values({
      id: build.id,
      team_id: build.teamId,
      template_id: build.templateId,
      state: "waiting",
      tags: JSON.stringify(build.tags),
      vcpus: build.vcpus,
      memory_mib: build.memoryMib,
      time_created: build.timeCreated,
    })
    .returningAll()
    .executeTakeFirstOrThrow();
}

export interface BuildStart {
  /** JSON */
  readonly recipe: string;
  readonly stepCount: number;
  /** Who alone may take it on until then; undefined: anybody, at once */
  readonly reservation?: { readonly by: string; readonly until: Date };
}

/** Gives a build its recipe, once; undefined when it has one, or has ended. */
export async function startBuild(db: Db, { id, team_id: teamId }: OwnedId, start: BuildStart): Promise<BuildRow | undefined> {
  return db
    .updateTable("build")
    .set((row) => ({
      recipe: start.recipe,
      step_count: start.stepCount,
      claimed_by: start.reservation?.by ?? null,
      time_claim_ends: start.reservation?.until ?? null,
      generation: row("generation", "+", 1),
    }))
    .where("id", "=", id)
    .where("team_id", "=", teamId)
    .where("state", "=", "waiting")
    .where("recipe", "is", null)
    .returningAll()
    .executeTakeFirst();
}

/** Keeps a build and its template from being deleted until the transaction ends; false when it is gone already. */
export async function lockBuild(db: Db, id: string): Promise<boolean> {
  return (await db.selectFrom("build").select("id").where("id", "=", id).forShare().executeTakeFirst()) !== undefined;
}

/** Builds that wait or run: of everybody, and of one team. */
export async function countOpenBuilds(db: Db, teamId: string): Promise<{ readonly all: number; readonly ofTeam: number }> {
  return db
    .selectFrom("build")
    .select((row) => [row.fn.countAll<number>().as("all"), row.fn.countAll<number>().filterWhere("team_id", "=", teamId).as("ofTeam")])
    .where("state", "in", ["waiting", "building"])
    .executeTakeFirstOrThrow();
}

export interface BuildPageQuery {
  readonly teamId: string;
  readonly templateId?: string;
  readonly state?: BuildState;
  /** Last of the page before */
  readonly after?: { readonly timeCreated: Date; readonly id: string };
  readonly limit: number;
}

/** Newest first. */
export async function listBuilds(db: Db, query: BuildPageQuery): Promise<BuildRow[]> {
  const { teamId, templateId, state, after } = query;
  let select = db.selectFrom("build").selectAll().where("team_id", "=", teamId);
  if (templateId !== undefined) select = select.where("template_id", "=", templateId);
  if (state !== undefined) select = select.where("state", "=", state);
  if (after !== undefined) {
    select = select.where(sql<boolean>`(time_created, id) < (${after.timeCreated}::timestamptz, ${after.id}::uuid)`);
  }
  return select.orderBy("time_created", "desc").orderBy("id", "desc").limit(query.limit).execute();
}

/** The newest builds of each template that are not tagged and from which no sandbox is left come after `keepCount`: those are forgotten. */
export async function listForgettableBuilds(db: Db, keepCount: number, limit: number): Promise<{ readonly id: string }[]> {
  const numbered = db
    .selectFrom("build")
    .select(["id", "template_id", "state"])
    .select(sql<number>`row_number() OVER (PARTITION BY template_id, state = 'ready' ORDER BY time_created DESC, id DESC)`.as("place"))
    .where("state", "in", [...buildEnded]);
  return db
    .selectFrom(numbered.as("numbered"))
    .select("id")
    .where("place", ">", keepCount)
    .where(({ exists, not, selectFrom }) =>
      not(exists(selectFrom("template_tag").select("tag").whereRef("template_tag.build_id", "=", "numbered.id"))),
    )
    .where(({ exists, not, selectFrom }) =>
      not(
        exists(
          selectFrom("sandbox")
            .select("sandbox.id")
            .whereRef("template_build_id", "=", "numbered.id")
            .where("sandbox.state", "<>", "stopped"),
        ),
      ),
    )
    .limit(limit)
    .execute();
}

export interface BuildLogQuery {
  /** Lines to pass over, of those that match; from the end when `backward` */
  readonly offset?: number;
  /** Not before; when `backward`, not after */
  readonly time?: Date;
  readonly levels?: readonly BuildLogTable["level"][];
  readonly backward?: boolean;
  readonly limit: number;
}

/** In the order asked for. */
export async function listBuildLog(db: Db, buildId: string, query: BuildLogQuery): Promise<BuildLogTable[]> {
  const { offset = 0, time, levels, backward = false } = query;
  let select = db.selectFrom("build_log").selectAll().where("build_id", "=", buildId);
  if (time !== undefined) select = select.where("time_created", backward ? "<=" : ">=", time);
  if (levels !== undefined) select = select.where("level", "in", levels);
  else if (time === undefined && !backward) {
    return select.where("number", ">=", offset).orderBy("number").limit(query.limit).execute(); // numbers have no gaps
  }
  return select
    .orderBy("number", backward ? "desc" : "asc")
    .offset(offset)
    .limit(query.limit)
    .execute();
}

/** Builds from before `before` that nobody ever gave a recipe. */
export async function listNeverStarted(db: Db, before: Date): Promise<OwnedId[]> {
  return db
    .selectFrom("build")
    .select(["id", "team_id"])
    .where("state", "=", "waiting")
    .where("recipe", "is", null)
    .where("time_created", "<", before)
    .execute();
}

/** A template's newest build, in whatever state, and how many there are. */
export interface NewestBuild {
  readonly build: BuildRow;
  readonly count: number;
}

/** Of a team's, by template. */
export async function listNewestBuilds(db: Db, teamId: string): Promise<ReadonlyMap<string, NewestBuild>> {
  const rows = await db
    .selectFrom("build")
    .selectAll()
    .select(sql<number>`count(*) OVER (PARTITION BY template_id)`.as("count"))
    .where("team_id", "=", teamId)
    .distinctOn("template_id")
    .orderBy("template_id")
    .orderBy("time_created", "desc")
    .orderBy("id", "desc")
    .execute();
  return new Map(rows.map(({ count, ...build }) => [build.template_id, { build, count }]));
}
