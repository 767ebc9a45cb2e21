import { z } from "zod";

import { pageSizeDefault, pageSizeMax } from "./limits.ts";
import { sandboxIdSchema } from "./ids.ts";

/** What can happen that somebody may want to know later. A closed list: programs decide by it. */
export const eventKinds = [
  "sandbox.created",
  "sandbox.paused",
  /** by inactivity */
  "sandbox.auto_paused",
  /** it goes on and is tried again; `detail.retry_at` says when */
  "sandbox.pause_failed",
  "sandbox.resumed",
  /** by a request that needed its guest */
  "sandbox.auto_resumed",
  "sandbox.checkpointed",
  "sandbox.rolled_back",
  /** of the parent; `detail.children` counts */
  "sandbox.forked",
  /** its VM ended without being asked to; it is back at its last generation */
  "sandbox.vm_lost",
  /** its time was up; `detail.action` says what was done: `delete` or `pause` */
  "sandbox.expired",
  "sandbox.failed",
  "sandbox.stopped",
  "template.created",
  "template.deleted",
  /** its memory image did not match this host, was left alone, and a new one was made by booting; the message says what did not match */
  "template.reimaged",
  /** its memory image does not match this host, and cannot be made anew, because a command runs in it: its sandboxes boot and run that; build it again */
  "template.stale",
] as const;
export type EventKind = (typeof eventKinds)[number];

export function isEventKind(kind: string): kind is EventKind {
  return (eventKinds as readonly string[]).includes(kind);
}

export const eventSchema = z
  .object({
    id: z.string(),
    time: z.iso.datetime(),
    kind: z.enum(eventKinds),
    sandbox_id: z.string().nullable(),
    template: z.string().nullable(),
    message: z.string().describe("For people"),
    detail: z.record(z.string(), z.string()),
  })
  .meta({ id: "Event" });
export type Event = z.infer<typeof eventSchema>;

export const listEventsQuerySchema = z.strictObject({
  sandbox_id: sandboxIdSchema.optional(),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(256).optional().describe("`next_cursor` of the page before"),
});
export type ListEventsQuery = z.output<typeof listEventsQuerySchema>;

export const eventListSchema = z
  .object({
    events: z.array(eventSchema).describe("Newest first"),
    next_cursor: z.string().nullable().describe("null on the last page"),
  })
  .meta({ id: "EventList" });
export type EventList = z.infer<typeof eventListSchema>;
