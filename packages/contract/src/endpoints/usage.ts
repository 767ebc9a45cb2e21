import { statsQuerySchema, statsSchema, usageQuerySchema, usageSchema } from "../usage.ts";
import type { Endpoint } from "./endpoint.ts";

export const usageEndpoints = {
  getUsage: {
    method: "GET",
    path: "/v1/usage",
    access: "usage:read",
    summary: "What the team's sandboxes used, by day, sandbox or template; exact, from when each ran",
    query: usageQuerySchema,
    answers: { 200: usageSchema },
    errors: [],
  },
  getStats: {
    method: "GET",
    path: "/v1/stats",
    access: "usage:read",
    summary: "How many sandboxes run, and with what; now, at most, and over time",
    query: statsQuerySchema,
    answers: { 200: statsSchema },
    errors: [],
  },
} as const satisfies Record<string, Endpoint>;
