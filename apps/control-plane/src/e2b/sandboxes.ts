import { PlatformError, templateTagDefault, type CreateSandboxBody } from "@roost/contract";
import type { FastifyInstance } from "fastify";
import type { z } from "zod";

import type { Caller } from "../accounts/caller.ts";
import type { PresentFilter } from "../db/list-sandboxes.ts";
import type { Services } from "../http/services.ts";
import type { CreateOptions } from "../sandboxes/creates.ts";
import { shownName } from "../templates/names.ts";
import { existingTemplate, templateNamed } from "./names.ts";
import { networkFromE2b } from "./network.ts";
import { decodeToken, setNextToken } from "./paging.ts";
import { addE2bRoute } from "./route.ts";
import { listQuerySchema, listV2QuerySchema, newSandboxSchema, newSandboxV2Schema, type NewE2bSandbox } from "./schemas.ts";
import { viewDetail, viewListed, viewSandbox } from "./views.ts";

/** Most sandboxes in the answer of the old list, which has no pages */
const oldListMax = 1_000;

/** Sandboxes: created, listed, shown, killed. */
export function addE2bSandboxRoutes(app: FastifyInstance, { sandboxes, templates, lookup, domain }: Services): void {
  /** What sandboxes from a template say that they are from; it may have been named by its id. Undefined: nothing can have that name. */
  const shownTemplate = async (teamId: string, text: string): Promise<string | undefined> => {
    const built = await templates.findUsable(teamId, text);
    if (built !== undefined) return shownName(built.name, built.reference.tag ?? templateTagDefault);
    const name = templateNamed(text);
    return name === undefined ? undefined : lookup.ownName(teamId, name);
  };
  const create = async ({ teamId }: Caller, body: NewE2bSandbox, signal: AbortSignal) =>
    viewSandbox(await sandboxes.create(teamId, bodyOf(body), signal, optionsOf(body)), domain);
  addE2bRoute(app, "createSandbox", { body: newSandboxSchema }, async ({ caller, body, signal }) => create(caller, body, signal));
  addE2bRoute(app, "createSandboxV2", { body: newSandboxV2Schema }, async ({ caller, body, signal }) => create(caller, body, signal));

  addE2bRoute(app, "listSandboxes", { query: listQuerySchema }, async ({ caller, query }) => {
    const { teamId } = caller;
    const filter = { teamId, ...(query.metadata === undefined ? {} : { metadata: query.metadata }) };
    const page = await sandboxes.listPresent({ ...filter, presence: ["running"], order: "desc", limit: oldListMax });
    return page.sandboxes.map(viewListed);
  });
  addE2bRoute(app, "listSandboxesV2", { query: listV2QuerySchema }, async ({ caller, query, reply }) => {
    const { teamId } = caller;
    const template = query.template === undefined ? undefined : await shownTemplate(teamId, query.template);
    if (query.template !== undefined && template === undefined) return []; // nothing can match
    const filter = filterOf(teamId, query, template);
    const after = query.nextToken === undefined ? undefined : decodeToken(query.nextToken);
    const [page, runningCount] = await Promise.all([
      sandboxes.listPresent({
        ...filter,
        ...(query.state === undefined ? {} : { presence: query.state }),
        ...(after === undefined ? {} : { after: { timeStarted: after.time, id: after.key } }),
        order: query.order,
        limit: query.limit,
      }),
      sandboxes.countRunning(filter),
    ]);
    setNextToken(reply, page.next && { time: page.next.timeStarted, key: page.next.id });
    void reply.header("x-total-running", String(runningCount));
    return page.sandboxes.map(viewListed);
  });

  addE2bRoute(app, "getSandbox", {}, async ({ sandbox }) => viewDetail(await sandboxes.connects.present(sandbox), domain));
  addE2bRoute(app, "killSandbox", {}, async ({ sandbox }) => sandboxes.kill(sandbox));
}

function filterOf(
  teamId: string,
  query: z.output<typeof listV2QuerySchema>,
  template: string | undefined,
): Omit<PresentFilter, "presence"> {
  return {
    teamId,
    ...(query.metadata === undefined ? {} : { metadata: query.metadata }),
    ...(query.startedAfter === undefined ? {} : { startedAfter: query.startedAfter }),
    ...(template === undefined ? {} : { template }),
  };
}

function bodyOf(body: NewE2bSandbox): CreateSandboxBody {
  refuseUnsupported(body);
  return {
    template: existingTemplate(body.templateID),
    timeout_sec: 0, // its time is an end, not inactivity
    checkpoint_interval_sec: 0,
    host_tags: [],
    auto_resume: body.autoResume?.enabled ?? false,
    metadata: body.metadata ?? {},
    envs: body.envVars ?? {},
  };
}

function optionsOf(body: NewE2bSandbox): CreateOptions {
  return {
    expirySec: body.timeout,
    expiryAction: body.autoPause === true ? "pause" : "delete",
    expiryMemory: body.autoPauseMemory ?? true,
    isSecure: body.secure ?? false,
    network: networkFromE2b(body),
  };
}

function refuseUnsupported(body: NewE2bSandbox): void {
  if ((body.volumeMounts ?? []).length > 0) throw refusal("volumeMounts: there are no volumes here yet; leave it out");
  if (Object.keys(body.iam?.tokens ?? {}).length > 0) throw refusal("iam.tokens: sandboxes get no workload tokens here; leave it out");
  if (body.autoPauseMemory !== false) return;
  if (body.autoPause !== true) throw refusal("autoPauseMemory: false says how to pause when the time is up, so it needs autoPause: true");
  if (body.autoResume?.enabled === true) {
    throw refusal("autoPauseMemory: false goes without autoResume: what is saved without memory is resumed only when it is asked for");
  }
}

function refusal(message: string): PlatformError {
  return new PlatformError("request_invalid", message);
}
