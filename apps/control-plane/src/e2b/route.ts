import { PlatformError, sandboxIdPattern } from "@roost/contract";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";

import type { Caller } from "../accounts/caller.ts";
import { ownedBy, type OwnedId } from "../db/owned-id.ts";
import { routePath } from "../http/path-table.ts";
import { parse } from "../http/validation.ts";
import { e2bRoutes, type E2bRoute, type E2bRouteId } from "./route-table.ts";

/** What a handler gets: everything parsed. */
export interface E2bCall<Query, Body> {
  /** The caller's of the id in the path, where that has one; else of no id */
  readonly sandbox: OwnedId;
  /** The path's parameters, percent-decoded */
  readonly params: Readonly<Record<string, string>>;
  readonly query: Query;
  readonly body: Body;
  readonly caller: Caller;
  /** Aborts when the caller is gone before the answer was complete. */
  readonly signal: AbortSignal;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

/** What a route takes. Unknown fields are for newer servers: they are passed over. */
export interface E2bInput<Query extends z.ZodType, Body extends z.ZodType> {
  readonly query?: Query;
  readonly body?: Body;
}

const nothing = z.unknown().transform(() => undefined);

/** Registers a route of the table: validates, calls one function, sends what it returns as JSON. */
export function addE2bRoute<Query extends z.ZodType = z.ZodUndefined, Body extends z.ZodType = z.ZodUndefined>(
  app: FastifyInstance,
  id: E2bRouteId,
  input: E2bInput<Query, Body>,
  handle: (call: E2bCall<z.output<Query>, z.output<Body>>) => Promise<unknown>,
): void {
  const route: E2bRoute = e2bRoutes[id];
  app.route({
    method: route.method,
    url: routePath(route.path),
    config: { access: route.access, operationId: `e2b.${id}` },
    handler: async (request, reply) => {
      const params = request.params as Readonly<Record<string, string>>;
      const call = {
        sandbox: ownedBy(request.caller?.teamId ?? "", params["sandboxID"] === undefined ? "" : sandboxIdIn(params["sandboxID"])),
        params,
        query: parse(input.query ?? nothing, request.query, "the query"),
        body: parse(input.body ?? nothing, request.body ?? {}, "the body"),
        caller: request.caller,
        signal: request.callerGone,
        request,
        reply,
      } as E2bCall<z.output<Query>, z.output<Body>>;
      const answer = await handle(call);
      if (reply.sent) return reply;
      if (reply.statusCode === 200) void reply.code(route.answer);
      return answer === undefined ? reply.send() : reply.send(answer);
    },
  });
}

/** Registers what is refused. */
export function addRefusedE2bRoutes(app: FastifyInstance): void {
  for (const [id, route] of Object.entries(e2bRoutes) as [E2bRouteId, E2bRoute][]) {
    const { refused, summary } = route;
    if (refused === undefined) continue;
    addE2bRoute(app, id, {}, async () => {
      throw new PlatformError("feature_unsupported", `not supported here (${summary}): ${refused}`);
    });
  }
}

/** Old clients append a client id: `<sandbox>-<client>`. What can be no id is the id of no sandbox. */
function sandboxIdIn(text: string): string {
  const id = text.replace(/-[a-z0-9]{1,16}$/, "");
  if (!sandboxIdPattern.test(id)) throw sandboxNotFound(text);
  return id;
}

/** Characters of an id that are repeated to the caller */
const idShownMax = 60;

export function sandboxNotFound(id: string): PlatformError {
  return new PlatformError("sandbox_not_found", `sandbox "${id.slice(0, idShownMax)}" was not found`);
}
