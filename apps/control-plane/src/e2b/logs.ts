import { logEntriesMax, logLevels, logSearchLengthMax, type LogEntry } from "@roost/contract";
import type { FastifyInstance } from "fastify";
import { z } from "zod";

import type { Services } from "../http/services.ts";
import { readLogs } from "../sandboxes/logs.ts";
import { addE2bRoute } from "./route.ts";

/** Unix `ms` that a date can hold */
const instantSchema = z.coerce.number().int().min(0).max(8_640_000_000_000_000);

const logsQuerySchema = z.object({
  start: instantSchema.optional(),
  limit: z.coerce
    .number()
    .int()
    .min(0)
    .default(logEntriesMax)
    .transform((limit) => Math.min(limit, logEntriesMax)),
});

const logsV2QuerySchema = z.object({
  cursor: instantSchema.optional(),
  limit: z.coerce.number().int().min(0).max(logEntriesMax).default(logEntriesMax),
  direction: z.enum(["forward", "backward"]).default("forward"),
  level: z.enum(logLevels).optional(),
  search: z.string().max(logSearchLengthMax).optional(),
});

/** What the processes of a sandbox and the platform wrote. */
export function addE2bLogRoutes(app: FastifyInstance, { sandboxes: { records }, hosts }: Services): void {
  addE2bRoute(app, "getSandboxLogs", { query: logsQuerySchema }, async ({ sandbox, query }) => {
    const entries = await readLogs({ records, hosts }, sandbox, { cursorMs: query.start, limit: query.limit, direction: "forward" });
    return { logs: entries.map(viewLine), logEntries: entries.map(viewEntry) };
  });
  addE2bRoute(app, "getSandboxLogsV2", { query: logsV2QuerySchema }, async ({ sandbox, query }) => {
    const { cursor: cursorMs, ...asked } = query;
    return { logs: (await readLogs({ records, hosts }, sandbox, { ...asked, cursorMs })).map(viewEntry) };
  });
}

/** A line is JSON that holds everything: E2B's CLI parses it, filters by `level` and `logger`, and prints the rest. */
function viewLine(entry: LogEntry) {
  const { timestamp, message, level, fields } = viewEntry(entry);
  return { timestamp, line: JSON.stringify({ ...fields, timestamp, level, message }) };
}

function viewEntry({ timeMs, level, message, fields }: LogEntry) {
  return { timestamp: new Date(timeMs).toISOString(), message, level, fields };
}
