import { createSandboxBodySchema, errorCatalogue, endpoints, type Endpoint } from "@roost/contract";
import { expect, test } from "vitest";

import { buildOpenApi } from "./openapi.ts";

type Json = Record<string, unknown>;
interface Document {
  readonly paths: Record<
    string,
    Record<string, { operationId: string; parameters: { name: string; in: string }[]; responses: Json; "x-websocket"?: Json }>
  >;
  readonly components: { readonly schemas: Record<string, Json> };
}

const document = buildOpenApi() as unknown as Document;

function* refsIn(value: unknown): Generator<string> {
  if (typeof value !== "object" || value === null) return;
  for (const [key, item] of Object.entries(value)) {
    if (key === "$ref" && typeof item === "string") yield item;
    else yield* refsIn(item);
  }
}

test("every endpoint is described once, with its parameters, answers, errors and messages", () => {
  const described = Object.values(document.paths).flatMap((item) => Object.values(item));
  expect(described.map((endpoint) => endpoint.operationId).sort()).toEqual(Object.keys(endpoints).sort());
  for (const [id, endpoint] of Object.entries<Endpoint>(endpoints)) {
    const found = document.paths[endpoint.path]?.[endpoint.method.toLowerCase()];
    expect(found?.operationId).toBe(id);
    const inPath = found?.parameters.filter((parameter) => parameter.in === "path").map((parameter) => parameter.name);
    expect(inPath).toEqual([...endpoint.path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name));
    const statuses = Object.keys(found?.responses ?? {}).map(Number);
    expect(statuses).toEqual(expect.arrayContaining(Object.keys(endpoint.answers).map(Number)));
    expect(statuses).toEqual(expect.arrayContaining(endpoint.errors.map((code) => errorCatalogue[code].status)));
    expect(found?.["x-websocket"] !== undefined).toBe(endpoint.webSocket !== undefined);
  }
});

test("every reference leads to a schema, and no schema only to itself", () => {
  const { schemas } = document.components;
  for (const ref of refsIn(document)) expect(schemas, ref).toHaveProperty([ref.replace("#/components/schemas/", "")]);
  for (const [name, schema] of Object.entries(schemas)) {
    expect(schema["$ref"], name).toBeUndefined();
    expect(schema["type"], name).toBe("object");
  }
});

test("what the document says of a body is what is asked of it", () => {
  const schema = document.components.schemas["CreateSandbox"] as {
    properties: Record<string, Json>;
    additionalProperties: boolean;
    required?: string[];
  };
  expect(Object.keys(schema.properties).sort()).toEqual(Object.keys(createSandboxBodySchema.shape).sort());
  expect(schema.additionalProperties).toBe(false);
  expect(schema.required ?? []).toEqual([]);
  expect(schema.properties["vcpus"]).toMatchObject({ type: "integer", minimum: 1, maximum: 16 });
});
