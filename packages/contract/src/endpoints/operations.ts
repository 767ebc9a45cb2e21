import { listOperationsQuerySchema, operationListSchema, operationSchema } from "../operations.ts";
import type { Endpoint } from "./endpoint.ts";

export const operationEndpoints = {
  listOperations: {
    method: "GET",
    path: "/v1/operations",
    access: "sandboxes:read",
    summary: "Operations, newest first: those that run, and those of the last days",
    query: listOperationsQuerySchema,
    answers: { 200: operationListSchema },
    errors: [],
  },
  getOperation: {
    method: "GET",
    path: "/v1/operations/{operation}",
    access: "sandboxes:read",
    summary: "One operation: how far it is, what came of it",
    answers: { 200: operationSchema },
    errors: ["operation_not_found"],
  },
} as const satisfies Record<string, Endpoint>;
