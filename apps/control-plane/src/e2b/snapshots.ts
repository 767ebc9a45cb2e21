import { memoryMibDefault, vcpusDefault, type Snapshot } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import type { TemplateDetail } from "../snapshots/snapshots.ts";
import type { PagePosition } from "../page-position.ts";
import { existingTemplate, fullName, namesOf, newSnapshotName, templateNamed, templateNotFound } from "./names.ts";
import { pageOf, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { listSnapshotsQuerySchema, newSnapshotSchema, pageQuerySchema } from "./schemas.ts";
import { envdVersion } from "./views.ts";

/** Snapshots, and the templates that are there. */
export function addE2bSnapshotRoutes(app: FastifyInstance, { sandboxes, snapshots }: Services): void {
  addE2bRoute(app, "createSnapshot", { body: newSnapshotSchema }, async ({ sandboxId, body }) => {
    await sandboxes.connects.present(sandboxId);
    const name = newSnapshotName(body.name);
    return viewSnapshot(await snapshots.create({ sandbox_id: sandboxId, name, memory: true }, { replace: true }));
  });
  addE2bRoute(app, "listSnapshots", { query: listSnapshotsQuerySchema }, async ({ query, reply }) => {
    const found = (await snapshots.list()).filter(
      (snapshot) =>
        (query.sandboxID === undefined || snapshot.source_sandbox_id === query.sandboxID) &&
        (query.name === undefined || isNamed(snapshot.name, query.name)),
    );
    const page = pageOf(found, (snapshot) => ({ time: new Date(snapshot.created_at), key: snapshot.name }), query);
    setNextToken(reply, page.next);
    return page.items.map(viewSnapshot);
  });

  const bases = async () => (await snapshots.templates()).filter(({ kind }) => kind === "base");
  addE2bRoute(app, "listTemplates", {}, async () => (await bases()).map(viewTemplate));
  addE2bRoute(app, "listTemplatesV2", { query: pageQuerySchema }, async ({ query, reply }) => {
    const page = pageOf(await bases(), positionOf, query);
    setNextToken(reply, page.next);
    return page.items.map(viewTemplate);
  });
  const find = async (text: string) => {
    const name = existingTemplate(text);
    const found = (await snapshots.templates()).find((template) => template.name === name);
    if (found === undefined) throw templateNotFound(text);
    return found;
  };
  addE2bRoute(app, "getTemplate", {}, async ({ params }) => viewTemplateWithBuilds(await find(params["templateID"] ?? "")));
  addE2bRoute(app, "findTemplateAlias", {}, async ({ params }) => ({
    templateID: (await find(params["alias"] ?? "")).name,
    public: false,
  }));
  addE2bRoute(app, "deleteTemplate", {}, async ({ params }) => snapshots.delete(existingTemplate(params["templateID"] ?? "")));
}

/** A filter without a tag means all tags of the name. */
function isNamed(template: string, filter: string): boolean {
  const wanted = templateNamed(filter);
  return template === wanted || (!filter.includes(":") && template.split(":", 1)[0] === wanted);
}

function positionOf(template: TemplateDetail): PagePosition {
  return { time: template.timeCreated, key: template.name };
}

function viewSnapshot(snapshot: Snapshot) {
  return { snapshotID: fullName(snapshot.name), names: namesOf(snapshot.name) };
}

function viewSizes(template: TemplateDetail) {
  return {
    cpuCount: template.vcpus ?? vcpusDefault,
    memoryMB: template.memoryMib ?? memoryMibDefault,
    diskSizeMB: template.diskSizeMib,
    envdVersion,
  };
}

function viewIdentity(template: TemplateDetail) {
  const [alias = template.name] = template.name.split(":", 1);
  const time = template.timeCreated.toISOString();
  return {
    templateID: template.name,
    public: false,
    aliases: [alias],
    names: [template.name],
    createdAt: time,
    updatedAt: time,
    lastSpawnedAt: null, // nobody counts
    spawnCount: 0,
  };
}

function viewTemplate(template: TemplateDetail) {
  return {
    ...viewIdentity(template),
    ...viewSizes(template),
    buildID: buildIdOf(template),
    buildStatus: "ready",
    buildCount: 1,
    createdBy: null,
  };
}

function viewTemplateWithBuilds(template: TemplateDetail) {
  const time = template.timeCreated.toISOString();
  const build = {
    buildID: buildIdOf(template),
    status: "ready",
    createdAt: time,
    updatedAt: time,
    finishedAt: time,
    ...viewSizes(template),
  };
  return { ...viewIdentity(template), builds: [build] };
}

/** Clients want a UUID; a template is what its digest says, so its digits are taken. */
function buildIdOf(template: TemplateDetail): string {
  const digits = template.digest
    .replace(/^[^:]*:/, "")
    .slice(0, 32)
    .padEnd(32, "0");
  return digits.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}
