import {
  buildIdSchema,
  errorBodySchema,
  errorCatalogue,
  filesHashSchema,
  operations,
  processSelectorSchema,
  sandboxIdSchema,
  templateNameSchema,
  templateTagSchema,
  type ErrorCode,
  type Operation,
} from "@roost/contract";
import { z } from "zod";

import { controlPlaneVersion } from "../version.ts";

type Json = Record<string, unknown>;

/** Errors that any operation may answer with. */
const commonErrors = ["request_invalid", "api_key_invalid", "internal"] as const satisfies readonly ErrorCode[];

const parameterSchemas: Readonly<Record<string, z.ZodType>> = {
  id: sandboxIdSchema,
  selector: processSelectorSchema,
  name: templateNameSchema,
  build: buildIdSchema,
  hash: filesHashSchema,
  tag: templateTagSchema,
};
const parameterDescriptions: Readonly<Record<string, string>> = {
  id: "Sandbox id",
  selector: "Pid, or a tag when it is not all digits",
  name: "Name of a template or snapshot",
  build: "Id of a build",
  hash: "SHA-256 of what an archive holds, as the recipe names it",
  tag: "Tag of a template",
};

/** The OpenAPI 3.1 description of the native API, made from the table of operations. */
export function buildOpenApi(): Json {
  const components: Json = {};
  const paths: Record<string, Json> = {};
  for (const [id, operation] of Object.entries<Operation>(operations)) {
    const item = (paths[operation.path] ??= {});
    item[operation.method.toLowerCase()] = describeOperation(id, operation, components);
  }
  const errorRef = schemaOf(errorBodySchema, "output", components);
  return {
    openapi: "3.1.0",
    info: {
      title: "Roost",
      version: controlPlaneVersion,
      description:
        'Self-hosted microVM sandboxes. Every error is `{"error": {"code", "message"}}` with a code from a closed list. ' +
        "WebSocket operations are `GET` upgrades; `x-websocket` holds the JSON messages each side sends.",
      license: { name: "Apache-2.0", identifier: "Apache-2.0" },
    },
    servers: [{ url: "/" }],
    security: [{ apiKey: [] }, { bearer: [] }],
    tags: [
      { name: "sandboxes", description: "Create, look at and end sandboxes" },
      { name: "snapshots", description: "Save sandboxes and start from what was saved" },
      { name: "templates", description: "Build what sandboxes start from" },
      { name: "commands", description: "Run commands, terminals, processes" },
      { name: "files", description: "Files of a sandbox" },
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

function describeOperation(id: string, operation: Operation, components: Json): Json {
  const webSocket = operation.webSocket;
  return {
    operationId: id,
    summary: operation.summary,
    tags: [tagOf(operation.path)],
    parameters: [...pathParameters(operation.path, components), ...queryParameters(operation, components)],
    ...(operation.body === undefined ? {} : { requestBody: describeBody(operation.body, components) }),
    responses: {
      ...(webSocket === undefined ? {} : { 101: { description: "The connection is a WebSocket now" } }),
      ...Object.fromEntries(Object.entries(operation.answers).map(([status, schema]) => [status, describeAnswer(schema, components)])),
      ...describeErrors(operation.errors),
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

function tagOf(path: string): string {
  if (/^\/v1\/(templates|builds)/.test(path)) return "templates";
  if (path.includes("/files")) return "files";
  if (/\/(pause|resume|checkpoint|rollback|generations|fork|snapshots)/.test(path)) return "snapshots";
  if (/\/(exec|pty|processes)/.test(path)) return "commands";
  return path.startsWith("/v1/sandboxes") ? "sandboxes" : "platform";
}

function pathParameters(path: string, components: Json): Json[] {
  return [...path.matchAll(/\{(\w+)\}/g)].map(([, name = ""]) => ({
    name,
    in: "path",
    required: true,
    description: parameterDescriptions[name] ?? name,
    schema: schemaOf(parameterSchemas[name] ?? z.string(), "input", components),
  }));
}

function queryParameters(operation: Operation, components: Json): Json[] {
  if (operation.query === undefined) return [];
  const schema = schemaOf(operation.query, "input", components);
  const required = new Set((schema["required"] as string[] | undefined) ?? []);
  return Object.entries((schema["properties"] ?? {}) as Record<string, Json>).map(([name, property]) => {
    const { description, ...rest } = property;
    return { name, in: "query", required: required.has(name), ...(description === undefined ? {} : { description }), schema: rest };
  });
}

function describeBody(body: NonNullable<Operation["body"]>, components: Json): Json {
  if (body === "stream") return { required: true, content: { "application/octet-stream": {} } };
  const schema = schemaOf(body, "input", components);
  return { required: true, content: { "application/json": { schema } } };
}

function describeAnswer(answer: Operation["answers"][number], components: Json): Json {
  if (answer === "empty") return { description: "Done" };
  if (answer === "stream") return { description: "Raw bytes", content: { "application/octet-stream": {} } };
  return { description: "The answer", content: { "application/json": { schema: schemaOf(answer, "output", components) } } };
}

/** One response per status, its codes in the description. */
function describeErrors(errors: readonly ErrorCode[]): Json {
  const byStatus = new Map<number, ErrorCode[]>();
  for (const code of new Set<ErrorCode>([...commonErrors, ...errors])) {
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
