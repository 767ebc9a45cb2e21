import { isHostTemplateName, PlatformError, templateTagDefault } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import type { PagePosition } from "../page-position.ts";
import type { TemplateDetail } from "../snapshots/snapshots.ts";
import type { BuiltTemplate } from "../templates/built-templates.ts";
import { isBuildId, parseReference, parseTag } from "../templates/names.ts";
import { existingTemplate, templateNotFound } from "./names.ts";
import { decodeToken, pageOf, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { pageQuerySchema } from "./schemas.ts";
import { assignTagsSchema, removeTagsSchema, updateTemplateSchema } from "./template-schemas.ts";
import { buildIdOf, viewBuilt, viewBuiltWithBuilds, viewOwn, viewOwnWithBuilds } from "./template-views.ts";

/** Templates: listed, shown, tagged, deleted. Those of builds, and those that hosts have of their own. */
export function addE2bTemplateRoutes(app: FastifyInstance, { templates, builds, snapshots }: Services): void {
  const list = async () => {
    const [own, built, newest] = [await snapshots.templates(), await templates.list(), await templates.newestBuilds()];
    return [
      ...own.filter(({ kind }) => kind === "base").map((template) => ({ position: positionOf(template), view: viewOwn(template) })),
      ...built.map((template) => ({ position: positionOfBuilt(template), view: viewBuilt(template, newest.get(template.row.id)) })),
    ];
  };
  addE2bRoute(app, "listTemplates", {}, async () => (await list()).map(({ view }) => view));
  addE2bRoute(app, "listTemplatesV2", { query: pageQuerySchema }, async ({ query, reply }) => {
    const page = pageOf(await list(), ({ position }) => position, query);
    setNextToken(reply, page.next);
    return page.items.map(({ view }) => view);
  });

  /** Of the hosts' own: a base template or snapshot. */
  const findOwn = async (text: string): Promise<TemplateDetail | undefined> => {
    const name = existingTemplate(text);
    return isHostTemplateName(name) ? undefined : (await snapshots.templates()).find((template) => template.name === name);
  };
  const findBuilt = async (text: string) => {
    const reference = parseReference(text);
    return reference === undefined ? undefined : templates.findByName(reference.name);
  };

  addE2bRoute(app, "getTemplate", { query: pageQuerySchema }, async ({ params, query, reply }) => {
    const text = params["templateID"] ?? "";
    const row = await findBuilt(text);
    if (row === undefined) {
      const own = await findOwn(text);
      if (own === undefined) throw templateNotFound(text);
      return viewOwnWithBuilds(own);
    }
    const after = query.nextToken === undefined ? undefined : decodeToken(query.nextToken);
    if (after !== undefined && !isBuildId(after.key))
      throw new PlatformError("request_invalid", "nextToken: this is not of a list of builds");
    const found = await builds.list({
      templateId: row.id,
      ...(after === undefined ? {} : { after: { timeCreated: after.time, id: after.key } }),
      limit: query.limit + 1,
    });
    const page = found.slice(0, query.limit);
    const last = page.at(-1);
    setNextToken(reply, found.length > page.length && last !== undefined ? { time: last.time_created, key: last.id } : undefined);
    return viewBuiltWithBuilds(await templates.get(row.id), page);
  });
  addE2bRoute(app, "findTemplateAlias", {}, async ({ params }) => {
    const text = params["alias"] ?? "";
    const row = await findBuilt(text);
    if (row !== undefined) {
      if (parseReference(text)?.tag !== undefined) await templates.resolve(text);
      return { templateID: row.id, public: row.is_public };
    }
    const own = await findOwn(text);
    if (own === undefined) throw templateNotFound(text);
    return { templateID: own.name, public: false };
  });
  addE2bRoute(app, "deleteTemplate", {}, async ({ params }) => {
    const text = params["templateID"] ?? "";
    if ((await findBuilt(text)) !== undefined) return templates.delete(text);
    const own = await findOwn(text);
    if (own === undefined) throw templateNotFound(text);
    await snapshots.delete(own.name);
  });
  for (const id of ["updateTemplate", "updateTemplateV2"] as const) {
    addE2bRoute(app, id, { body: updateTemplateSchema }, async ({ params, body }) => {
      const text = params["templateID"] ?? "";
      const row = body.public === undefined ? await templates.find(text) : await templates.setPublic(text, body.public);
      return { names: [row.name] };
    });
  }

  addE2bRoute(app, "listTemplateTags", {}, async ({ params }) => {
    const text = params["templateID"] ?? "";
    const row = await findBuilt(text);
    if (row !== undefined) {
      const { tags } = await templates.get(row.id);
      return tags.map(({ tag, build_id: buildID, time_created: time }) => ({ tag, buildID, createdAt: time.toISOString() }));
    }
    const own = await findOwn(text);
    if (own === undefined) throw templateNotFound(text);
    const [, tag = templateTagDefault] = own.name.split(":");
    return [{ tag, buildID: buildIdOf(own), createdAt: own.timeCreated.toISOString() }];
  });
  addE2bRoute(app, "assignTemplateTags", { body: assignTagsSchema }, async ({ body }) => {
    requireReference("target", body.target);
    const tags = [...new Set(body.tags.map(parseTag))];
    const { build } = await templates.tag(body.target, tags);
    return { tags, buildID: build.id };
  });
  addE2bRoute(app, "removeTemplateTags", { body: removeTagsSchema }, async ({ body }) => {
    requireReference("name", body.name);
    await templates.untag(body.name, body.tags.map(parseTag));
  });
}

function requireReference(field: string, text: string): void {
  if (parseReference(text) === undefined) {
    throw new PlatformError("request_invalid", `${field}: ${JSON.stringify(text)} is not accepted: written as name or name:tag`);
  }
}

function positionOf(template: TemplateDetail): PagePosition {
  return { time: template.timeCreated, key: template.name };
}

function positionOfBuilt({ row }: BuiltTemplate): PagePosition {
  return { time: row.time_created, key: row.name };
}
