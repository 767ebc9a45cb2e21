import { endpoints, parameterNames, pathParameters, type Access, type Endpoint, type EndpointId, type ParametersOf } from "@roost/contract";
import { must } from "@roost/kit";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";

import type { Caller } from "../accounts/caller.ts";
import type { OperationRequest } from "../operations/operations.ts";
import { refuseKey } from "./once.ts";
import { routePath } from "./path-table.ts";
import { parse } from "./validation.ts";

type BodyOf<Op> = Op extends { readonly body: infer Body extends z.ZodType } ? z.output<Body> : undefined;
type QueryOf<Op> = Op extends { readonly query: infer Query extends z.ZodType } ? z.output<Query> : undefined;

/** For work that is recorded as an operation */
type OperationOf<Op> = Op extends { readonly operation: string } ? OperationRequest : undefined;

type CallerOf<Op> = Op extends { readonly access: "open" } ? undefined : Caller;

/** What a handler gets: everything parsed. */
export interface Call<Op> {
  readonly params: Op extends { readonly path: infer Path extends string } ? ParametersOf<Path> : never;
  readonly query: QueryOf<Op>;
  readonly body: BodyOf<Op>;
  readonly caller: CallerOf<Op>;
  readonly operation: OperationOf<Op>;
  /** Aborts when the caller is gone before the answer was complete, unless it will ask again. */
  readonly signal: AbortSignal;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

declare module "fastify" {
  interface FastifyRequest {
    /** Set before any handler runs; undefined only on open routes. */
    caller: Caller | undefined;
    callerGone: AbortSignal | undefined;
  }
  interface FastifyContextConfig {
    /** Who may call it. Every route has to say so, or the server does not start. */
    access?: Access;
    /** Takes its body as a stream: no deadline for the whole of it. */
    isUpload?: boolean;
    operationId?: string;
  }
}

const noQuery = z.strictObject({});
const noBody = z.strictObject({});

function paramsSchemaOf(path: string): z.ZodObject {
  return z.object(Object.fromEntries(parameterNames(path).map((name) => [name, pathParameters[name].schema])));
}

/**
 * Registers the route of an endpoint: validates, calls one function, sends what it returns as JSON (undefined: nothing,
 * or the handler has sent it).
 */
export function addRoute<Id extends EndpointId>(
  app: FastifyInstance,
  id: Id,
  status: number,
  handle: (call: Call<(typeof endpoints)[Id]>) => Promise<unknown>,
): void {
  const endpoint: Endpoint = endpoints[id];
  const isUpload = endpoint.body === "stream";
  const paramsSchema = paramsSchemaOf(endpoint.path);
  app.route({
    method: endpoint.method,
    url: routePath(endpoint.path),
    config: { access: endpoint.access, isUpload, operationId: id },
    exposeHeadRoute: endpoint.method === "GET",
    handler: async (request, reply) => {
      const params = parse(paramsSchema, request.params, "the path");
      const query = parse(endpoint.query ?? noQuery, request.query, "the query");
      const body = isUpload ? undefined : parseBody(endpoint, request.body);
      const call = {
        params,
        query,
        body,
        caller: request.caller,
        signal: request.callerGone,
        request,
        reply,
      } as Call<(typeof endpoints)[Id]>;
      let answer: unknown;
      if (endpoint.operation === undefined) {
        refuseKey(endpoint, request);
        answer = await handle(call);
      } else {
        const once = {
          endpointId: id,
          endpoint,
          status,
          teamId: must(request.caller, "the caller of an operation").teamId,
          asked: { params, query, body },
          request,
          reply,
        };
        answer = await app.once.answer({ ...once, signal: must(request.callerGone, "the end of the request") }, async (operation, gone) =>
          handle({ ...call, operation, signal: gone } as Call<(typeof endpoints)[Id]>),
        );
      }
      if (reply.sent) return reply;
      if (answer === undefined) return reply.code(status).send();
      return reply.code(reply.statusCode === 200 ? status : reply.statusCode).send(answer);
    },
  });
}

function parseBody(endpoint: Endpoint, body: unknown): unknown {
  if (endpoint.body === undefined) {
    if (body !== undefined && body !== null) parse(noBody, body, "the body");
    return undefined;
  }
  return endpoint.body === "stream" ? undefined : parse(endpoint.body, body === undefined ? {} : body, "the body");
}
