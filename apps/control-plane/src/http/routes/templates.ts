import { isHostTemplateName, type Template, type TemplateDetail } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { HostTemplate } from "../../hosts/observed.ts";
import type { BuiltTemplate } from "../../templates/built-templates.ts";
import { hostTemplateOf, templateNotFound } from "../../templates/names.ts";
import {
  viewBuiltTemplate,
  viewBuiltTemplateDetail,
  viewHostTemplate,
  viewHostTemplateDetail,
  viewSnapshotTemplate,
  viewSnapshotTemplateDetail,
} from "../../templates/template-view.ts";
import { putArchive, uploadLength } from "../archive-upload.ts";
import { whileCallerMay } from "../caller-watch.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** What a team's sandboxes start from: base templates, which hosts have, the team's snapshots, what it built, and what others let it use. */
export function addTemplateRoutes(app: FastifyInstance, services: Services): void {
  const { templates, lookup, snapshots, buildFiles, listHostTemplates, metrics } = services;
  /** Hosts are asked again where what they said last is older than a build. */
  const upToDate = async (onHosts: readonly HostTemplate[], built: readonly BuiltTemplate[]) =>
    built.every((template) => template.build === undefined || onHostOf(template, onHosts) !== undefined) ? onHosts : listHostTemplates(0);
  const detailOf = async (teamId: string, text: string): Promise<TemplateDetail> => {
    const onHosts = await listHostTemplates();
    const own = await lookup.ownName(teamId, text);
    if (own !== undefined) {
      if (isHostTemplateName(own)) throw templateNotFound(text);
      const base = onHosts.find((template) => isBase(template) && template.name === own);
      if (base !== undefined) return viewHostTemplateDetail(base);
      const snapshot = await snapshots.find(teamId, own);
      if (snapshot !== undefined) return viewSnapshotTemplateDetail(snapshot, named(onHosts, snapshot.host_template));
    }
    const built = await templates.get(teamId, text);
    return viewBuiltTemplateDetail(built, onHostOf(built, await upToDate(onHosts, [built])));
  };

  addRoute(app, "listTemplates", 200, async ({ caller }) => {
    const [built, own] = [await templates.list(caller.teamId), await snapshots.rows(caller.teamId)];
    const onHosts = await upToDate(await listHostTemplates(), built);
    const all: Template[] = [
      ...onHosts.filter(isBase).map(viewHostTemplate),
      ...own.map(viewSnapshotTemplate),
      ...built.map((template) => viewBuiltTemplate(template, onHostOf(template, onHosts))),
    ];
    return { templates: all.sort((a, b) => (a.name < b.name ? -1 : 1)) };
  });
  addRoute(app, "getTemplate", 200, async ({ caller, params }) => detailOf(caller.teamId, params.name));
  addRoute(app, "updateTemplate", 200, async ({ caller, params, body }) => {
    const { name } = await templates.setPublic(caller.teamId, params.name, body.is_public, caller.actor);
    return detailOf(caller.teamId, name);
  });
  addRoute(app, "deleteTemplate", 204, async ({ caller, params }) => templates.delete(caller.teamId, params.name, caller.actor));
  addRoute(app, "setTemplateTag", 200, async ({ caller, params, body }) => {
    const { row } = await templates.tag(caller.teamId, params.name, [params.tag], body.build_id, caller.actor);
    return detailOf(caller.teamId, row.name);
  });
  addRoute(app, "removeTemplateTag", 204, async ({ caller, params }) =>
    templates.untag(caller.teamId, params.name, [params.tag], caller.actor),
  );
  addRoute(app, "findTemplateFiles", 200, async ({ caller, params, query }) => {
    const { name } = await templates.parseNewName(caller.teamId, query.name);
    const template = await templates.findOwn(caller.teamId, name);
    return { is_present: template !== undefined && (await buildFiles.has(template.id, params.hash)) };
  });

  // Its own scope: here a body of any type is left on the wire
  void app.register(async (uploads) => {
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser("*", (_request, _payload, done) => done(null));
    addRoute(uploads, "putTemplateFiles", 204, async ({ caller, params, query, request, signal }) => {
      const length = uploadLength(request.raw);
      const { name } = await templates.parseNewName(caller.teamId, query.name);
      const template = await templates.ensure(caller.teamId, name, caller.actor);
      await whileCallerMay(services, { request, caller }, signal, async (allowed) =>
        putArchive(buildFiles, { templateId: template.id, hash: params.hash, length, request: request.raw, signal: allowed }, (bytes) =>
          metrics.countFileBytes("up", bytes),
        ),
      );
    });
  });
}

function isBase(template: HostTemplate): boolean {
  return template.kind === "base" && !isHostTemplateName(template.name);
}

function named(onHosts: readonly HostTemplate[], name: string): HostTemplate | undefined {
  return onHosts.find((template) => template.name === name);
}

/** What hosts have of the build that a template's name means. */
function onHostOf({ build }: BuiltTemplate, onHosts: readonly HostTemplate[]): HostTemplate | undefined {
  return build === undefined ? undefined : named(onHosts, build.host_template ?? hostTemplateOf(build.id));
}
