import { randomUUID } from "node:crypto";

import {
  buildEnded,
  buildLogLevels,
  buildTagsMax,
  PlatformError,
  templateTagDefault,
  type BuildLogLevel,
  type BuildState,
  type Recipe,
  type RegistryCredentials,
} from "@roost/contract";
import { hour, minute, must, nap, type Logger } from "@roost/kit";

import type { Actor } from "../accounts/caller.ts";
import {
  countOpenBuilds,
  insertBuild,
  listBuildLog,
  listBuilds,
  startBuild,
  type BuildLogQuery,
  type BuildPageQuery,
  type BuildStart,
} from "../db/builds.ts";
import { lockBuiltTemplate, type BuiltTemplateRow } from "../db/built-templates.ts";
import type { Db } from "../db/database.ts";
import type { OwnedId } from "../db/owned-id.ts";
import { lockTeam, quotaOf } from "../db/teams.ts";
import type { BuildLogTable } from "../db/schema.ts";
import { findBuild, requestCancel, type BuildRow } from "./build-store.ts";
import { buildNotFound, type BuiltTemplates } from "./built-templates.ts";
import { parseTag, templateNotFound } from "./names.ts";

/** Builds at once that have not ended, also such as wait: above, new ones are refused */
const openBuildsMax = 100;
/** How long in `ms` a build with credentials is left to this process, which alone has them; then whoever claims it says so */
const reservationMs = 1 * hour;
/** Builds that never got a recipe are given up after this long in `ms`: uploads of large contexts take a while */
export const requestTimeoutMs = 24 * hour;
/** Time between two looks at a build that is followed in `ms` */
const lookIntervalMs = 250;
/** Lines of one look */
const linesPerLook = 500;
/** Credentials are forgotten after this in `ms`, whatever became of their build */
const credentialsKeptMs = 2 * hour + 5 * minute;

export interface BuildRequest {
  readonly teamId: string;
  /** Who asks; default: the platform */
  readonly actor?: Actor;
  /** With a tag, or without */
  readonly name: string;
  readonly tags: readonly string[];
  readonly vcpus: number;
  readonly memoryMib: number;
}

export interface RequestedBuild {
  readonly template: BuiltTemplateRow;
  readonly build: BuildRow;
}

interface NamedBuild {
  readonly template: BuiltTemplateRow;
  readonly tags: readonly string[];
}

export interface BuildsDependencies {
  readonly db: Db;
  readonly templates: BuiltTemplates;
  readonly log: Logger;
  /** What this process claims builds as */
  readonly claimedBy: string;
  /** There is a build to be taken on, or to be cancelled */
  readonly poke: () => void;
  readonly now?: () => Date;
}

/** What changed of a build that is followed. */
export type BuildNews = { readonly build: BuildRow } | { readonly lines: readonly BuildLogTable[] };

/** Builds as users ask for them. Who runs them claims their rows: see ./build-store.ts and ./run/. */
export class Builds {
  readonly #deps: BuildsDependencies;
  /** Never written anywhere, so a restart forgets them */
  readonly #credentials = new Map<string, { readonly value: RegistryCredentials; readonly timer: NodeJS.Timeout }>();

  constructor(deps: BuildsDependencies) {
    this.#deps = deps;
  }

  #now(): Date {
    return this.#deps.now?.() ?? new Date();
  }

  /** Records a build, and its template if there is none; what it is to do is said by `start`. */
  async request(request: BuildRequest): Promise<RequestedBuild> {
    const named = await this.#named(request);
    const build = await this.#deps.db.transaction().execute(async (transaction) => this.#insert(transaction, request, named, randomUUID()));
    this.#logRequest(build, named.template);
    return { template: named.template, build };
  }

  /**
   * Both at once: there is a build with its recipe, or none. `record` writes down what it is made for, in the same transaction, so that whoever asks again for the
   * same finds it.
   */
  async create(
    request: BuildRequest,
    recipe: Recipe,
    credentials: RegistryCredentials | undefined,
    record: (transaction: Db, buildId: string) => Promise<void>,
  ): Promise<RequestedBuild> {
    const named = await this.#named(request);
    const id = randomUUID();
    if (credentials !== undefined) this.#keep(id, credentials); // first: it may be taken on as soon as it is written
    let build: BuildRow | undefined;
    try {
      build = await this.#deps.db.transaction().execute(async (transaction) => {
        await record(transaction, id);
        const inserted = await this.#insert(transaction, request, named, id);
        return must(
          await startBuild(transaction, inserted, this.#startOf(recipe, credentials)),
          "a build that was just inserted has no recipe",
        );
      });
    } finally {
      if (build === undefined) this.forgetCredentials(id);
    }
    this.#logRequest(build, named.template);
    this.#deps.poke();
    return { template: named.template, build };
  }

  /** Lets a build begin as soon as it is its turn. Once per build. */
  async start(owned: OwnedId, recipe: Recipe, credentials?: RegistryCredentials): Promise<BuildRow> {
    const { id } = await this.get(owned); // before its credentials are touched
    const { db, log } = this.#deps;
    const before = this.credentialsOf(id);
    if (credentials !== undefined) this.#keep(id, credentials); // first: it may be taken on as soon as it is written
    const started = await startBuild(db, owned, this.#startOf(recipe, credentials));
    if (started !== undefined) {
      log.info({ buildId: id }, "build started");
      this.#deps.poke();
      return started;
    }
    if (before !== undefined) this.#keep(id, before);
    else this.forgetCredentials(id);
    const { state, recipe: known } = await this.get(owned);
    throw new PlatformError("build_wrong_state", `build ${id} ${known === null ? `is ${state}` : "has been started already"}`);
  }

  /** What a build is called, and its template, made when there is none. */
  async #named({ teamId, actor, name: text, tags }: BuildRequest): Promise<NamedBuild> {
    const { templates } = this.#deps;
    const { name, tag } = await templates.parseNewName(teamId, text);
    const all = [...new Set([...(tag === undefined ? [] : [tag]), ...tags.map(parseTag)])];
    if (all.length > buildTagsMax) throw new PlatformError("request_invalid", `tags: a build has at most ${buildTagsMax}`);
    return { template: await templates.ensure(teamId, name, actor), tags: all.length === 0 ? [templateTagDefault] : all };
  }

  async #insert(
    transaction: Db,
    { teamId, name: text, vcpus, memoryMib }: BuildRequest,
    { template, tags }: NamedBuild,
    id: string,
  ): Promise<BuildRow> {
    await requireRoom(transaction, teamId);
    if (!(await lockBuiltTemplate(transaction, template.id))) throw templateNotFound(text);
    return insertBuild(transaction, { id, teamId, templateId: template.id, tags, vcpus, memoryMib, timeCreated: this.#now() });
  }

  #startOf(recipe: Recipe, credentials: RegistryCredentials | undefined): BuildStart {
    const until = new Date(this.#now().getTime() + reservationMs);
    return {
      recipe: JSON.stringify(recipe),
      stepCount: recipe.steps.length + recipe.stages.reduce((sum, stage) => sum + stage.steps.length, 0),
      ...(credentials === undefined ? {} : { reservation: { by: this.#deps.claimedBy, until } }),
    };
  }

  #logRequest({ id, team_id: teamId }: BuildRow, template: BuiltTemplateRow): void {
    this.#deps.log.info({ buildId: id, teamId, templateId: template.id, template: template.name }, "build requested");
  }

  /** What lets the build into its image's registry, as long as this process has it. */
  credentialsOf(id: string): RegistryCredentials | undefined {
    return this.#credentials.get(id)?.value;
  }

  forgetCredentials(id: string): void {
    clearTimeout(this.#credentials.get(id)?.timer);
    this.#credentials.delete(id);
  }

  close(): void {
    for (const id of this.#credentials.keys()) this.forgetCredentials(id);
  }

  async get(owned: OwnedId): Promise<BuildRow> {
    const row = await findBuild(this.#deps.db, owned);
    if (row === undefined) throw buildNotFound(owned.id);
    return row;
  }

  /** Newest first. */
  async list(query: BuildPageQuery): Promise<BuildRow[]> {
    return listBuilds(this.#deps.db, query);
  }

  /** A build that has ended stays what it is. */
  async cancel(owned: OwnedId): Promise<BuildRow> {
    const { id } = owned;
    const row = await requestCancel(this.#deps.db, owned, this.#now());
    if (row === undefined) throw buildNotFound(id);
    this.#deps.log.info({ buildId: id, state: row.state }, "build is to be cancelled");
    if (buildEnded.has(row.state)) this.forgetCredentials(id);
    else this.#deps.poke();
    return row;
  }

  async logs(
    owned: OwnedId,
    { level, ...query }: Omit<BuildLogQuery, "levels"> & { readonly level?: BuildLogLevel | undefined },
  ): Promise<BuildLogTable[]> {
    const { id } = await this.get(owned);
    return listBuildLog(this.#deps.db, id, { ...query, ...(level === undefined ? {} : { levels: levelsFrom(level) }) });
  }

  /** A build as it goes: itself, again when it has changed, and lines of its log from `offset` on; ends when it has ended, or `signal` aborts. */
  async *follow(owned: OwnedId, offset: number, signal: AbortSignal): AsyncGenerator<BuildNews, void, undefined> {
    let next = offset;
    let told: string | undefined;
    while (!signal.aborted) {
      const build = await this.get(owned);
      const version = `${build.generation} ${build.time_cancel_requested?.getTime() ?? ""}`;
      if (version !== told) yield { build };
      told = version;
      for (let isMore = true; isMore && !signal.aborted;) {
        const lines = await listBuildLog(this.#deps.db, build.id, { offset: next, limit: linesPerLook });
        next += lines.length;
        isMore = lines.length === linesPerLook;
        if (lines.length > 0) yield { lines };
      }
      if (buildEnded.has(build.state)) return;
      await nap(lookIntervalMs, signal);
    }
  }

  #keep(id: string, value: RegistryCredentials): void {
    this.forgetCredentials(id);
    const timer = setTimeout(() => this.#credentials.delete(id), credentialsKeptMs);
    timer.unref();
    this.#credentials.set(id, { value, timer });
  }
}

/** Refuses a build above what all teams, or this one, may have open. Nobody else counts the team's until the transaction ends. */
async function requireRoom(transaction: Db, teamId: string): Promise<void> {
  const team = await lockTeam(transaction, teamId);
  if (team === undefined) throw new PlatformError("internal", "the team is gone", { detail: `team ${teamId}` });
  const { all, ofTeam } = await countOpenBuilds(transaction, teamId);
  const { builds_at_once: ofTeamMax } = quotaOf(team);
  if (ofTeamMax !== null && ofTeam >= ofTeamMax) {
    throw new PlatformError(
      "rate_limited",
      `quota builds_at_once: ${ofTeam} builds of this team are waiting or running, and it may have ${ofTeamMax}; try again when some are done`,
      { retryAfterSec: 30 },
    );
  }
  if (all < openBuildsMax) return;
  throw new PlatformError("rate_limited", `${openBuildsMax} builds are waiting or running; try again when some are done`, {
    retryAfterSec: 30,
  });
}

/** A level, and what is worse. */
function levelsFrom(level: BuildLogLevel): readonly BuildLogLevel[] {
  return buildLogLevels.slice(buildLogLevels.indexOf(level));
}

/** Of a build in a list, for the page after it. */
export function placeOf(row: BuildRow): { readonly time: Date; readonly key: string } {
  return { time: row.time_created, key: row.id };
}

/** Whether somebody has asked for its end and it goes on. */
export function isCancelling(row: { readonly state: BuildState; readonly time_cancel_requested: Date | null }): boolean {
  return row.time_cancel_requested !== null && !buildEnded.has(row.state);
}
