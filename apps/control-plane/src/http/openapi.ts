import {
  endpoints,
  errorBodySchema,
  errorCatalogue,
  idempotencyKeyHours,
  idempotencyKeySchema,
  isScope,
  parameterNames,
  pathParameters,
  platformScopes,
  type Access,
  type Endpoint,
  type ErrorCode,
} from "@roost/contract";
import { z } from "zod";

import { controlPlaneVersion } from "../version.ts";

type Json = Record<string, unknown>;

/** Errors that any endpoint may answer with. */
const commonErrors = ["request_invalid", "internal"] as const satisfies readonly ErrorCode[];

/** The OpenAPI 3.1 description of the native API, made from the table of endpoints. */
export function buildOpenApi(): Json {
  const components: Json = {};
  const paths: Record<string, Json> = {};
  for (const [id, endpoint] of Object.entries<Endpoint>(endpoints)) {
    const item = (paths[endpoint.path] ??= {});
    item[endpoint.method.toLowerCase()] = describeEndpoint(id, endpoint, components);
  }
  const errorRef = schemaOf(errorBodySchema, "output", components);
  return {
    openapi: "3.1.0",
    info: {
      title: "Roost",
      version: controlPlaneVersion,
      description:
        'Self-hosted microVM sandboxes. Every error is `{"error": {"code", "message"}}` with a code from a closed list. ' +
        "WebSocket endpoints are `GET` upgrades; `x-websocket` holds the JSON messages each side sends.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    tags: [
      { name: "sandboxes", description: "Create, look at and end sandboxes" },
      { name: "snapshots", description: "Save sandboxes and start from what was saved" },
      { name: "templates", description: "Build what sandboxes start from" },
      { name: "commands", description: "Run commands, terminals, processes" },
      { name: "files", description: "Files of a sandbox" },
      { name: "accounts", description: "Who may do what: API keys, users, teams" },
      { name: "platform", description: "What the platform offers" },
    ],
    paths,
    components: {
      securitySchemes: {
        apiKey: { type: "apiKey", in: "header", name: "X-API-Key" },
        bearer: { type: "http", scheme: "bearer" },
      },
      responses: { Error: { description: "An error from the catalogue", content: { "application/json": { schema: errorRef } } } },
      schemas: components,
    },
  };
}

function describeEndpoint(id: string, endpoint: Endpoint, components: Json): Json {
  const webSocket = endpoint.webSocket;
  return {
    operationId: id,
    summary: endpoint.summary,
    tags: [tagOf(endpoint.path)],
    description: describeAccess(endpoint.access),
    security: securityOf(endpoint.access),
    parameters: [
      ...describeParameters(endpoint.path, components),
      ...queryParameters(endpoint, components),
      ...keyParameter(endpoint, components),
    ],
    ...(endpoint.body === undefined ? {} : { requestBody: describeBody(endpoint.body, components) }),
    responses: {
      ...(webSocket === undefined ? {} : { 101: { description: "The connection is a WebSocket now" } }),
      ...Object.fromEntries(
        Object.entries(endpoint.answers).map(([status, schema]) => [status, describeAnswer(schema, components, endpoint.streamType)]),
      ),
      ...describeErrors([...commonErrors, ...errorsOfAccess(endpoint.access), ...errorsOfOperation(endpoint), ...endpoint.errors]),
    },
    ...(webSocket === undefined
      ? {}
      : {
          "x-websocket": {
            ...(webSocket.client === undefined ? {} : { client: schemaOf(webSocket.client, "input", components) }),
            server: schemaOf(webSocket.server, "output", components),
          },
        }),
  };
}

/** The header by which a request names itself. */
function keyParameter({ operation }: Endpoint, components: Json): Json[] {
  if (operation === undefined) return [];
  return [
    {
      name: "Idempotency-Key",
      in: "header",
      required: false,
      description: `Names the request: sending it again within ${idempotencyKeyHours} hours does nothing twice and is answered the same. A UUID for example`,
      schema: schemaOf(idempotencyKeySchema, "input", components),
    },
  ];
}

function errorsOfOperation({ operation }: Endpoint): readonly ErrorCode[] {
  return operation === undefined ? [] : ["idempotency_key_reused", "operation_running", "operation_interrupted"];
}

function describeAccess(access: Access): string {
  if (access === "open") return "Anybody may call it.";
  if (access === "caller") return "Any API key may call it, and whoever is signed in.";
  if (access === "session") return "Only for people who are signed in, not for API keys.";
  return access === "admin" ? "Only for admins of the platform." : `Needs the scope \`${access}\`.`;
}

/** OpenAPI 3.1 lets each way of authentication name the roles that it needs. */
function securityOf(access: Access): Json[] {
  if (access === "open") return [];
  const scopes = isScope(access) ? [access] : [];
  return access === "session" ? [{ bearer: scopes }] : [{ apiKey: scopes }, { bearer: scopes }];
}

function errorsOfAccess(access: Access): readonly ErrorCode[] {
  if (access === "open") return [];
  if (access === "caller") return ["api_key_invalid"];
  if (access === "session") return ["api_key_invalid", "session_required"];
  return platformScopes.has(access) ? ["api_key_invalid", "admin_only", "scope_missing"] : ["api_key_invalid", "scope_missing"];
}

function tagOf(path: string): string {
  if (/^\/v1\/(templates|builds)/.test(path)) return "templates";
  if (/^\/v1\/(auth|me|keys|teams|invitations|admin)/.test(path)) return "accounts";
  if (path.includes("/files")) return "files";
  if (/\/(pause|resume|checkpoint|rollback|generations|fork|snapshots)/.test(path)) return "snapshots";
  if (/\/(exec|pty|processes)/.test(path)) return "commands";
  return path.startsWith("/v1/sandboxes") ? "sandboxes" : "platform";
}

function describeParameters(path: string, components: Json): Json[] {
  return parameterNames(path).map((name) => ({
    name,
    in: "path",
    required: true,
    description: pathParameters[name].description,
    schema: schemaOf(pathParameters[name].schema, "input", components),
  }));
}

function queryParameters(endpoint: Endpoint, components: Json): Json[] {
  if (endpoint.query === undefined) return [];
  const schema = schemaOf(endpoint.query, "input", components);
  const required = new Set((schema["required"] as string[] | undefined) ?? []);
  return Object.entries((schema["properties"] ?? {}) as Record<string, Json>).map(([name, property]) => {
    const { description, ...rest } = property;
    return { name, in: "query", required: required.has(name), ...(description === undefined ? {} : { description }), schema: rest };
  });
}

function describeBody(body: NonNullable<Endpoint["body"]>, components: Json): Json {
  if (body === "stream") return { required: true, content: { "application/octet-stream": {} } };
  const schema = schemaOf(body, "input", components);
  return { required: true, content: { "application/json": { schema } } };
}

function describeAnswer(answer: Endpoint["answers"][number], components: Json, streamType = "application/octet-stream"): Json {
  if (answer === "empty") return { description: "Done" };
  if (answer === "stream")
    return { description: streamType === "text/event-stream" ? "Server-sent events" : "Raw bytes", content: { [streamType]: {} } };
  return { description: "The answer", content: { "application/json": { schema: schemaOf(answer, "output", components) } } };
}

/** One response per status, its codes in the description. */
function describeErrors(errors: readonly ErrorCode[]): Json {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set(errors)) {
    const { status } = errorCatalogue[code];
    byStatus.set(status, [...(byStatus.get(status) ?? []), code]);
  }
  const answers = [...byStatus].sort(([a], [b]) => a - b);
  return Object.fromEntries(
    answers.map(([status, codes]) => [
      status,
      {
        description: codes.map((code) => `\`${code}\``).join(", "),
        content: { "application/json": { schema: { $ref: "#/components/schemas/Error" } } },
      },
    ]),
  );
}

/** A zod schema as JSON Schema; those with an id go to `components` and are referred to. */
function schemaOf(schema: z.ZodType, io: "input" | "output", components: Json): Json {
  const made = z.toJSONSchema(schema, { io, target: "draft-2020-12" }) as Json;
  const { $schema: _version, $defs: definitions, ...rest } = made;
  for (const [id, definition] of Object.entries((definitions ?? {}) as Record<string, Json>)) components[id] = cleaned(definition);
  const id = schema.meta()?.id;
  if (id === undefined) return cleaned(rest);
  if (definitions === undefined || !Object.hasOwn(definitions as Json, id)) components[id] = cleaned(rest);
  return { $ref: `#/components/schemas/${id}` };
}

/** References point into `components`; ids are not repeated inside; safe-integer bounds that zod adds say nothing. */
function cleaned(value: unknown): Json {
  return clean(value) as Json;
}

function clean(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(clean);
  if (typeof value !== "object" || value === null) return value;
  const kept = Object.entries(value).filter(
    ([key, item]) =>
      key !== "id" || typeof item !== "string" || !("type" in value || "$ref" in value || "oneOf" in value || "anyOf" in value),
  );
  return Object.fromEntries(
    kept
      .filter(([, item]) => item !== Number.MAX_SAFE_INTEGER && item !== Number.MIN_SAFE_INTEGER)
      .map(([key, item]) => [
        key,
        key === "$ref" && typeof item === "string" ? item.replace("#/$defs/", "#/components/schemas/") : clean(item),
      ]),
  );
}
