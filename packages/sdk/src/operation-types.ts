import { operations, type Operation, type OperationId } from "@roost/contract";
import type { z } from "zod";

type Table = typeof operations;

/** JSON that an operation answers with; undefined when its answer is empty. */
export type AnswerOf<Id extends OperationId> = JsonOf<Table[Id]["answers"][keyof Table[Id]["answers"]]>;
type JsonOf<Answer> = Answer extends z.ZodType ? z.output<Answer> : Answer extends "empty" ? undefined : never;

export type BodyOf<Id extends OperationId> = Table[Id] extends { readonly body: infer Body extends z.ZodObject }
  ? z.input<Body>
  : undefined;

/** The entry of the table with its optional parts, which the literal types of single entries lack. */
export function operationOf(id: OperationId): Operation {
  return operations[id];
}

/** `/v1/sandboxes/{id}` with its parameters filled in. */
export function pathOf(id: OperationId, parameters: Readonly<Record<string, string>>): string {
  return operations[id].path.replaceAll(/\{(\w+)\}/g, (_match, name: string) => encodeURIComponent(parameters[name] ?? ""));
}
