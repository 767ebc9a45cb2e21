import { eventListSchema, followEventsQuerySchema, listEventsQuerySchema } from "../events.ts";
import type { Endpoint } from "./endpoint.ts";

export const eventEndpoints = {
  listEvents: {
    method: "GET",
    path: "/v1/events",
    access: "events:read",
    summary: "What happened, newest first",
    query: listEventsQuerySchema,
    answers: { 200: eventListSchema },
    errors: [],
  },
  followEvents: {
    method: "GET",
    path: "/v1/events/stream",
    access: "events:read",
    summary:
      "What happens, as server-sent events: `id` is the position, `data` the Event; `event: position` is a sign of life, `event: gap` tells of forgotten ones",
    query: followEventsQuerySchema,
    streamType: "text/event-stream",
    answers: { 200: "stream" },
    errors: ["rate_limited", "shutting_down"],
  },
} as const satisfies Record<string, Endpoint>;
