import { isHostTemplateName, type TemplateDetail } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { HostTemplate } from "../../hosts/observed.ts";
import type { BuiltTemplate } from "../../templates/built-templates.ts";
import { hostTemplateOf, parseNewName, templateNotFound } from "../../templates/names.ts";
import { viewBuiltTemplate, viewBuiltTemplateDetail, viewHostTemplate, viewHostTemplateDetail } from "../../templates/template-view.ts";
import { putArchive, uploadLength } from "../archive-upload.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** What sandboxes start from: base templates and snapshots, which hosts have, and what builds made. */
export function addTemplateRoutes(app: FastifyInstance, { templates, buildFiles, listHostTemplates, metrics }: Services): void {
  /** Hosts are asked again where what they said last is older than a build. */
  const upToDate = async (onHosts: readonly HostTemplate[], built: readonly BuiltTemplate[]) =>
    built.every((template) => template.build === undefined || onHostOf(template, onHosts) !== undefined) ? onHosts : listHostTemplates(0);
  const detailOf = async (name: string): Promise<TemplateDetail> => {
    if (isHostTemplateName(name)) throw templateNotFound(name);
    const onHosts = await listHostTemplates();
    const own = onHosts.find((template) => template.name === name);
    if (own !== undefined) return viewHostTemplateDetail(own);
    const built = await templates.get(name);
    return viewBuiltTemplateDetail(built, onHostOf(built, await upToDate(onHosts, [built])));
  };

  addRoute(app, "listTemplates", 200, async () => {
    const all = await templates.list();
    const onHosts = await upToDate(await listHostTemplates(), all);
    const own = onHosts.filter((template) => !isHostTemplateName(template.name)).map(viewHostTemplate);
    const built = all.map((template) => viewBuiltTemplate(template, onHostOf(template, onHosts)));
    return { templates: [...own, ...built].sort((a, b) => (a.name < b.name ? -1 : 1)) };
  });
  addRoute(app, "getTemplate", 200, async ({ params }) => detailOf(params.name));
  addRoute(app, "deleteTemplate", 204, async ({ params }) => templates.delete(params.name));
  addRoute(app, "setTemplateTag", 200, async ({ params, body }) => {
    const { row } = await templates.tag(params.name, [params.tag], body.build_id);
    return detailOf(row.name);
  });
  addRoute(app, "removeTemplateTag", 204, async ({ params }) => templates.untag(params.name, [params.tag]));
  addRoute(app, "findTemplateFiles", 200, async ({ params, query }) => {
    const template = await templates.findByName(parseNewName(query.name).name);
    return { is_present: template !== undefined && (await buildFiles.has(template.id, params.hash)) };
  });

  // Its own scope: here a body of any type is left on the wire
  void app.register(async (uploads) => {
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser("*", (_request, _payload, done) => done(null));
    addRoute(uploads, "putTemplateFiles", 204, async ({ params, query, request, signal }) => {
      const length = uploadLength(request.raw);
      const template = await templates.ensure(parseNewName(query.name).name);
      await putArchive(buildFiles, { templateId: template.id, hash: params.hash, length, request: request.raw, signal }, (bytes) =>
        metrics.countFileBytes("up", bytes),
      );
    });
  });
}

/** What hosts have of the build that a template's name means. */
function onHostOf({ build }: BuiltTemplate, onHosts: readonly HostTemplate[]): HostTemplate | undefined {
  if (build === undefined) return undefined;
  const name = hostTemplateOf(build.id);
  return onHosts.find((template) => template.name === name);
}
