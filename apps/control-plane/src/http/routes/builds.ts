import { PlatformError, type Build } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import { ownedBy, type OwnedId } from "../../db/owned-id.ts";
import { decodePosition, encodePosition } from "../../page-position.ts";
import { placeOf } from "../../templates/builds.ts";
import { isBuildId } from "../../templates/names.ts";
import { viewBuild, viewLogLine } from "../../templates/template-view.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** Builds of templates, and their logs. */
export function addBuildRoutes(app: FastifyInstance, { templates, builds, sandboxes }: Services): void {
  addRoute(app, "createBuild", 202, async ({ caller, body, operation }) =>
    sandboxes.operations.run(
      "build.create",
      operation,
      async (running) => {
        const request = { ...body, teamId: caller.teamId, actor: caller.actor, memoryMib: body.memory_mb };
        const { template, build } = await builds.create(request, body.recipe, body.credentials, async (transaction, id) =>
          running.begin(transaction, { subject: { kind: "template", id: body.name }, made: [id] }),
        );
        return viewBuild(build, template.name);
      },
      (answer) => (operation.key === null ? null : { status: 202, body: answer }),
    ),
  );
  addRoute(app, "listBuilds", 200, async ({ caller, query }) => {
    const { teamId } = caller;
    const template = query.template === undefined ? undefined : await templates.find(teamId, query.template);
    const rows = await builds.list({
      teamId,
      ...(template === undefined ? {} : { templateId: template.id }),
      ...(query.state === undefined ? {} : { state: query.state }),
      ...(query.cursor === undefined ? {} : { after: cursorFrom(query.cursor) }),
      limit: query.limit + 1,
    });
    const page = rows.slice(0, query.limit);
    const last = page.at(-1);
    const names = await templates.namesOf(page.map((row) => row.template_id));
    return {
      builds: page.map((row) => viewBuild(row, names.get(row.template_id) ?? "")),
      next_cursor: rows.length > page.length && last !== undefined ? encodePosition(placeOf(last)) : null,
    };
  });
  const nameOf = async (templateId: string) => (await templates.namesOf([templateId])).get(templateId) ?? "";
  addRoute(app, "getBuild", 200, async ({ caller, params }) => viewOwnBuild({ builds, templates }, ownedBy(caller.teamId, params.build)));
  addRoute(app, "cancelBuild", 200, async ({ caller, params }) => {
    const row = await builds.cancel(ownedBy(caller.teamId, params.build));
    return viewBuild(row, await nameOf(row.template_id));
  });
  addRoute(app, "getBuildLogs", 200, async ({ caller, params, query }) => {
    const { offset, level, direction, limit } = query;
    const lines = await builds.logs(ownedBy(caller.teamId, params.build), {
      offset,
      level,
      backward: direction === "backward",
      limit: limit + 1,
    });
    return { lines: lines.slice(0, limit).map(viewLogLine), next_offset: lines.length > limit ? offset + limit : null };
  });
}

/** A build as its team sees it. Throws `build_not_found`. */
export async function viewOwnBuild({ builds, templates }: Pick<Services, "builds" | "templates">, owned: OwnedId): Promise<Build> {
  const row = await builds.get(owned);
  return viewBuild(row, (await templates.namesOf([row.template_id])).get(row.template_id) ?? "");
}

function cursorFrom(cursor: string) {
  const position = decodePosition(cursor);
  if (position === undefined || !isBuildId(position.key)) {
    throw new PlatformError("request_invalid", "cursor: this is not a `next_cursor` of an earlier page");
  }
  return { timeCreated: position.time, id: position.key };
}
