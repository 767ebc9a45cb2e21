import { isHostTemplateName, PlatformError, templateTagDefault } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import type { PagePosition } from "../page-position.ts";
import type { BuiltTemplate } from "../templates/built-templates.ts";
import { isBuildId, parseReference, parseTag } from "../templates/names.ts";
import { existingTemplate, templateNotFound } from "./names.ts";
import { ownTemplate, type OwnTemplate } from "./own-template.ts";
import { decodeToken, pageOf, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { pageQuerySchema } from "./schemas.ts";
import { assignTagsSchema, removeTagsSchema, updateTemplateSchema } from "./template-schemas.ts";
import { buildIdOf, viewBuilt, viewBuiltWithBuilds, viewOwn, viewOwnWithBuilds } from "./template-views.ts";

/** Templates: listed, shown, tagged, deleted. Those of builds, and those that hosts have of their own. */
export function addE2bTemplateRoutes(app: FastifyInstance, services: Services): void {
  const { templates, lookup, builds, snapshots, listHostTemplates } = services;
  const listBase = async () =>
    (await listHostTemplates())
      .filter(({ kind, name }) => kind === "base" && !isHostTemplateName(name))
      .map((template) => ownTemplate("base", template));
  /** The caller's own, and base templates. What other teams let it use is not listed, as in E2B. */
  const list = async (teamId: string) => {
    const [base, all, newest] = [await listBase(), await templates.list(teamId), await templates.newestBuilds(teamId)];
    const built = all.filter(({ row }) => row.team_id === teamId);
    return [
      ...base.map((template) => ({ position: positionOf(template), view: viewOwn(template) })),
      ...built.map((template) => ({ position: positionOfBuilt(template), view: viewBuilt(template, newest.get(template.row.id)) })),
    ];
  };
  addE2bRoute(app, "listTemplates", {}, async ({ caller }) => (await list(caller.teamId)).map(({ view }) => view));
  addE2bRoute(app, "listTemplatesV2", { query: pageQuerySchema }, async ({ caller, query, reply }) => {
    const page = pageOf(await list(caller.teamId), ({ position }) => position, query);
    setNextToken(reply, page.next);
    return page.items.map(({ view }) => view);
  });

  /** What no build made: a base template, or a snapshot of the team's. */
  const findOwn = async (teamId: string, text: string): Promise<OwnTemplate | undefined> => {
    const name = await lookup.ownName(teamId, existingTemplate(text));
    if (name === undefined || isHostTemplateName(name)) return undefined;
    const snapshot = await snapshots.find(teamId, name);
    return snapshot === undefined ? (await listBase()).find((template) => template.name === name) : ownTemplate("snapshot", snapshot);
  };

  addE2bRoute(app, "getTemplate", { query: pageQuerySchema }, async ({ caller: { teamId }, params, query, reply }) => {
    const text = params["templateID"] ?? "";
    const row = await templates.findOwn(teamId, text);
    if (row === undefined) {
      const own = await findOwn(teamId, text);
      if (own === undefined) throw templateNotFound(text);
      return viewOwnWithBuilds(own);
    }
    const after = query.nextToken === undefined ? undefined : decodeToken(query.nextToken);
    if (after !== undefined && !isBuildId(after.key))
      throw new PlatformError("request_invalid", "nextToken: this is not of a list of builds");
    const found = await builds.list({
      teamId,
      templateId: row.id,
      ...(after === undefined ? {} : { after: { timeCreated: after.time, id: after.key } }),
      limit: query.limit + 1,
    });
    const page = found.slice(0, query.limit);
    const last = page.at(-1);
    setNextToken(reply, found.length > page.length && last !== undefined ? { time: last.time_created, key: last.id } : undefined);
    return viewBuiltWithBuilds(await templates.get(teamId, row.id), page);
  });
  addE2bRoute(app, "findTemplateAlias", {}, async ({ caller: { teamId }, params }) => {
    const text = params["alias"] ?? "";
    const found = await templates.findUsable(teamId, text);
    if (found !== undefined) {
      if (found.reference.tag !== undefined) await templates.resolve(teamId, text);
      return { templateID: found.row.id, public: found.row.is_public };
    }
    const own = await findOwn(teamId, text);
    if (own === undefined) throw templateNotFound(text);
    return { templateID: own.name, public: false };
  });
  addE2bRoute(app, "deleteTemplate", {}, async ({ caller, params }) => {
    const { teamId } = caller;
    const text = params["templateID"] ?? "";
    if ((await templates.findOwn(teamId, text)) !== undefined) return templates.delete(teamId, text, caller.actor);
    const own = await findOwn(teamId, text);
    if (own === undefined) throw templateNotFound(text);
    await snapshots.delete(caller, own.name);
  });
  for (const id of ["updateTemplate", "updateTemplateV2"] as const) {
    addE2bRoute(app, id, { body: updateTemplateSchema }, async ({ caller: { teamId, actor }, params, body }) => {
      const text = params["templateID"] ?? "";
      const row =
        body.public === undefined ? await templates.find(teamId, text) : await templates.setPublic(teamId, text, body.public, actor);
      return { names: [row.name] };
    });
  }

  addE2bRoute(app, "listTemplateTags", {}, async ({ caller: { teamId }, params }) => {
    const text = params["templateID"] ?? "";
    const row = await templates.findOwn(teamId, text);
    if (row !== undefined) {
      const { tags } = await templates.get(teamId, row.id);
      return tags.map(({ tag, build_id: buildID, time_created: time }) => ({ tag, buildID, createdAt: time.toISOString() }));
    }
    const own = await findOwn(teamId, text);
    if (own === undefined) throw templateNotFound(text);
    const [, tag = templateTagDefault] = own.name.split(":");
    return [{ tag, buildID: buildIdOf(own), createdAt: own.timeCreated.toISOString() }];
  });
  addE2bRoute(app, "assignTemplateTags", { body: assignTagsSchema }, async ({ caller, body }) => {
    requireReference("target", body.target);
    const tags = [...new Set(body.tags.map(parseTag))];
    const { build } = await templates.tag(caller.teamId, body.target, tags, undefined, caller.actor);
    return { tags, buildID: build.id };
  });
  addE2bRoute(app, "removeTemplateTags", { body: removeTagsSchema }, async ({ caller, body }) => {
    requireReference("name", body.name);
    await templates.untag(caller.teamId, body.name, body.tags.map(parseTag), caller.actor);
  });
}

function requireReference(field: string, text: string): void {
  if (parseReference(text) === undefined) {
    throw new PlatformError("request_invalid", `${field}: ${JSON.stringify(text)} is not accepted: written as name or name:tag`);
  }
}

function positionOf(template: OwnTemplate): PagePosition {
  return { time: template.timeCreated, key: template.name };
}

function positionOfBuilt({ row }: BuiltTemplate): PagePosition {
  return { time: row.time_created, key: row.name };
}
