import { endpoints, type Endpoint, type EndpointId } from "@roost/contract";
import type { z } from "zod";

type Table = typeof endpoints;

/** JSON that an endpoint answers with; undefined when its answer is empty. */
export type AnswerOf<Id extends EndpointId> = JsonOf<Table[Id]["answers"][keyof Table[Id]["answers"]]>;
type JsonOf<Answer> = Answer extends z.ZodType ? z.output<Answer> : Answer extends "empty" ? undefined : never;

export type BodyOf<Id extends EndpointId> = Table[Id] extends { readonly body: infer Body extends z.ZodObject } ? z.input<Body> : undefined;

/** The entry of the table with its optional parts, which the literal types of single entries lack. */
export function endpointOf(id: EndpointId): Endpoint {
  return endpoints[id];
}

/** `/v1/sandboxes/{id}` with its parameters filled in. */
export function pathOf(id: EndpointId, parameters: Readonly<Record<string, string>>): string {
  return endpoints[id].path.replaceAll(/\{(\w+)\}/g, (_match, name: string) => encodeURIComponent(parameters[name] ?? ""));
}
