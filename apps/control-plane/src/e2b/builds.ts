import { buildEnded, PlatformError, registryCredentialsSchema, type BuildState } from "@roost/contract";
import type { FastifyInstance, FastifyRequest } from "fastify";

import type { Caller } from "../accounts/caller.ts";
import type { BuiltTemplateRow } from "../db/built-templates.ts";
import { ownedBy } from "../db/owned-id.ts";
import type { BuildLogTable } from "../db/schema.ts";
import { authorize } from "../http/authorization.ts";
import { putArchive, uploadLengthIfSaid } from "../http/archive-upload.ts";
import { routePath } from "../http/path-table.ts";
import type { Services } from "../http/services.ts";
import { parse } from "../http/validation.ts";
import type { BuildRow } from "../templates/build-store.ts";
import { buildNotFound } from "../templates/built-templates.ts";
import { isBuildId, templateNotFound } from "../templates/names.ts";
import { credentialsFromE2b, recipeFromE2b, stepToE2b } from "./recipe-from-e2b.ts";
import { addE2bRoute } from "./route.ts";
import { e2bRoutes } from "./route-table.ts";
import { buildLogsQuerySchema, buildStatusQuerySchema, requestBuildSchema, startBuildSchema } from "./template-schemas.ts";

/** Lines of the log that go with the reason of a failure */
const reasonEntriesMax = 20;

/** Building templates: requested, files uploaded, started, followed. */
export function addE2bBuildRoutes(app: FastifyInstance, services: Services): void {
  const { templates, builds, buildFiles } = services;
  addE2bRoute(app, "requestBuild", { body: requestBuildSchema }, async ({ caller, body }) => {
    const { template, build } = await builds.request({
      teamId: caller.teamId,
      actor: caller.actor,
      name: body.name,
      tags: body.tags ?? [],
      vcpus: body.cpuCount,
      memoryMib: body.memoryMB,
    });
    return {
      templateID: template.id,
      buildID: build.id,
      public: template.is_public,
      names: [template.name],
      tags: build.tags,
      aliases: [template.name],
    };
  });

  addE2bRoute(app, "getBuildUpload", {}, async ({ caller, params, request }) => {
    const hash = params["hash"] ?? "";
    const { id } = await templates.find(caller.teamId, params["templateID"] ?? "");
    const token = await buildFiles.uploadToken(id, hash);
    return { present: await buildFiles.has(id, hash), url: `${addressOf(request)}/templates/${id}/files/${hash}?token=${token}` };
  });
  addUploadRoute(app, services);

  const buildOf = async ({ teamId }: Caller, params: Readonly<Record<string, string>>): Promise<BuildRow> => {
    const id = (params["buildID"] ?? "").toLowerCase();
    if (!isBuildId(id)) throw buildNotFound(id.slice(0, idShownMax));
    const build = await builds.get(ownedBy(teamId, id));
    const template = await templates.find(teamId, params["templateID"] ?? "");
    if (build.template_id !== template.id) throw buildNotFound(id);
    return build;
  };
  addE2bRoute(app, "startBuild", { body: startBuildSchema }, async ({ caller, params, body }) => {
    const build = await buildOf(caller, params);
    const given = credentialsFromE2b(body.fromImageRegistry);
    const credentials = given === undefined ? undefined : parse(registryCredentialsSchema, given, "fromImageRegistry");
    await builds.start(build, recipeFromE2b(body), credentials);
  });
  addE2bRoute(app, "getBuildStatus", { query: buildStatusQuerySchema }, async ({ caller, params, query }) => {
    const build = await buildOf(caller, params);
    const { logsOffset: offset, limit, level } = query;
    const entries = limit === 0 ? [] : await builds.logs(build, { offset, limit, level });
    return {
      templateID: build.template_id,
      buildID: build.id,
      status: statuses[build.state],
      logs: [],
      logEntries: entries.map((line) => viewEntry(line, build)),
      ...(await reasonOf(build)),
    };
  });
  addE2bRoute(app, "getBuildLogs", { query: buildLogsQuerySchema }, async ({ caller, params, query }) => {
    const build = await buildOf(caller, params);
    const { cursor, direction, limit, level } = query;
    if (limit === 0) return { logs: [] };
    const time = cursor === undefined ? {} : { time: new Date(cursor) };
    const lines = await builds.logs(build, { ...time, backward: direction === "backward", limit, level });
    return { logs: lines.map((line) => viewEntry(line, build)) };
  });

  const reasonOf = async (build: BuildRow) => {
    if (build.state === "cancelled") return { reason: { message: "the build was cancelled", logEntries: [] } };
    if (build.failure === null) return {};
    const { message, step } = build.failure;
    const newest = (await builds.logs(build, { backward: true, limit: reasonEntriesMax })).reverse();
    const shown = stepToE2b(step, build.recipe);
    const logEntries = newest.filter((line) => line.step === step).map((line) => viewEntry(line, build));
    return { reason: { message, ...(shown === undefined ? {} : { step: shown }), logEntries } };
  };
}

/** Characters of an id that are repeated to the caller */
const idShownMax = 60;

export const statuses: Readonly<Record<BuildState, "waiting" | "building" | "ready" | "error">> = {
  waiting: "waiting",
  building: "building",
  ready: "ready",
  failed: "error",
  cancelled: "error",
};

/** A build as it is listed with its template. */
export function viewBuild(build: BuildRow) {
  const updated = build.time_ended ?? build.time_started ?? build.time_created;
  return {
    buildID: build.id,
    status: statuses[build.state],
    createdAt: build.time_created.toISOString(),
    updatedAt: updated.toISOString(),
    ...(buildEnded.has(build.state) ? { finishedAt: updated.toISOString() } : {}),
    cpuCount: build.vcpus,
    memoryMB: build.memory_mib,
  };
}

function viewEntry({ time_created: time, level, message, step }: BuildLogTable, build: BuildRow) {
  const shown = stepToE2b(step, build.recipe);
  return { timestamp: time.toISOString(), level, message, ...(shown === undefined ? {} : { step: shown }) };
}

/** How the caller reaches this server: it has just done so. */
function addressOf(request: FastifyRequest): string {
  const proto = request.headers["x-forwarded-proto"] === "https" ? "https" : request.protocol;
  return `${proto}://${request.headers.host ?? "localhost"}`;
}

/** What `getBuildUpload` gave is called without a key, but for as long as the token in it is good. Older clients do not say how long what they send is. */
function addUploadRoute(app: FastifyInstance, { templates, buildFiles, authentication, metrics }: Services): void {
  const route = e2bRoutes.putBuildFiles;
  /** The template that files are for: of the caller's team, or the one that the token in the URL is for. */
  const templateFor = async (request: FastifyRequest, id: string, hash: string, token: unknown): Promise<BuiltTemplateRow> => {
    if (typeof token !== "string") {
      const caller = await authentication.identify(request.raw, request.id);
      authorize(caller, route.access);
      return templates.find(caller.teamId, id);
    }
    if (!(await buildFiles.checkToken(id, hash, token))) {
      throw new PlatformError("api_key_invalid", "the token in this URL is not good, or not any more; ask for another URL");
    }
    const template = await templates.ofAnyTeam(id);
    if (template === undefined) throw templateNotFound(id);
    return template;
  };
  void app.register(async (uploads) => {
    uploads.removeAllContentTypeParsers();
    uploads.addContentTypeParser("*", (_request, _payload, done) => done(null));
    uploads.route({
      method: route.method,
      url: routePath(route.path),
      config: { access: "open", isUpload: true, operationId: "e2b.putBuildFiles" },
      handler: async (request, reply) => {
        const { templateID = "", hash = "" } = request.params as Readonly<Record<string, string>>;
        const { token } = request.query as Readonly<Record<string, unknown>>;
        const template = await templateFor(request, templateID, hash, token);
        const signal = request.callerGone ?? new AbortController().signal;
        const upload = { templateId: template.id, hash, length: uploadLengthIfSaid(request.raw), request: request.raw, signal };
        await putArchive(buildFiles, upload, (bytes) => metrics.countFileBytes("up", bytes));
        return reply.code(route.answer).send();
      },
    });
  });
}
