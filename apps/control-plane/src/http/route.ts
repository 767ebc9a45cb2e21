import {
  buildIdSchema,
  filesHashSchema,
  operations,
  processSelectorSchema,
  sandboxIdSchema,
  templateNameSchema,
  templateTagSchema,
  type Operation,
  type OperationId,
} from "@roost/contract";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";
import { z } from "zod";

import type { ApiKey } from "../teams/api-keys.ts";
import { routePath } from "./path-table.ts";
import { parse } from "./validation.ts";

type BodyOf<Op> = Op extends { readonly body: infer Body extends z.ZodType } ? z.output<Body> : undefined;
type QueryOf<Op> = Op extends { readonly query: infer Query extends z.ZodType } ? z.output<Query> : undefined;

/** What a handler gets: everything parsed. */
export interface Call<Op> {
  readonly params: {
    readonly id: string;
    readonly selector: string;
    readonly name: string;
    readonly build: string;
    readonly hash: string;
    readonly tag: string;
  };
  readonly query: QueryOf<Op>;
  readonly body: BodyOf<Op>;
  readonly caller: ApiKey;
  /** Aborts when the caller is gone before the answer was complete. */
  readonly signal: AbortSignal;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

declare module "fastify" {
  interface FastifyRequest {
    /** Set by the authentication hook; undefined only on open routes. */
    caller: ApiKey | undefined;
    callerGone: AbortSignal | undefined;
  }
  interface FastifyContextConfig {
    /** Answers without an API key. */
    isOpen?: boolean;
    /** Takes its body as a stream: no deadline for the whole of it. */
    isUpload?: boolean;
    operationId?: string;
  }
}

const noQuery = z.strictObject({});
const noBody = z.strictObject({});

const paramsSchema = z.object({
  id: sandboxIdSchema.optional(),
  selector: processSelectorSchema.optional(),
  name: templateNameSchema.optional(),
  build: buildIdSchema.optional(),
  hash: filesHashSchema.optional(),
  tag: templateTagSchema.optional(),
});

/**
 * Registers the route of an operation: validates, calls one function, sends what it returns as JSON (undefined: nothing,
 * or the handler has sent it).
 */
export function addRoute<Id extends OperationId>(
  app: FastifyInstance,
  id: Id,
  status: number,
  handle: (call: Call<(typeof operations)[Id]>) => Promise<unknown>,
): void {
  const operation: Operation = operations[id];
  const isUpload = operation.body === "stream";
  app.route({
    method: operation.method,
    url: routePath(operation.path),
    config: { isUpload, operationId: id },
    exposeHeadRoute: operation.method === "GET",
    handler: async (request, reply) => {
      const params = parse(paramsSchema, request.params, "the path");
      const query = parse(operation.query ?? noQuery, request.query, "the query");
      const body = isUpload ? undefined : parseBody(operation, request.body);
      const call = {
        params: {
          id: params.id ?? "",
          selector: params.selector ?? "",
          name: params.name ?? "",
          build: params.build ?? "",
          hash: params.hash ?? "",
          tag: params.tag ?? "",
        },
        query,
        body,
        caller: request.caller,
        signal: request.callerGone,
        request,
        reply,
      } as Call<(typeof operations)[Id]>;
      const answer = await handle(call);
      if (reply.sent) return reply;
      if (answer === undefined) return reply.code(status).send();
      return reply.code(reply.statusCode === 200 ? status : reply.statusCode).send(answer);
    },
  });
}

function parseBody(operation: Operation, body: unknown): unknown {
  if (operation.body === undefined) {
    if (body !== undefined && body !== null) parse(noBody, body, "the body");
    return undefined;
  }
  return operation.body === "stream" ? undefined : parse(operation.body, body === undefined ? {} : body, "the body");
}
