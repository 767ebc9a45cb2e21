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
  /** `detail.state` says what it is since: `paused` at its last generation, or `failed` */
  "sandbox.vm_lost",
  /** its time was up; `detail.action` says what was done: `delete` or `pause` */
  "sandbox.expired",
  "sandbox.failed",
  "sandbox.stopped",
  /** to another host; `detail.from` and `detail.to` are their ids */
  "sandbox.moved",
  "template.created",
  /** of a built one; `detail` has what changed: `is_public`, or `tags` and the `build_id` that they mean now, or `removed_tags` */
  "template.updated",
  "template.deleted",
  /** its memory image did not match this host, was left alone, and a new one was made by booting; the message says what did not match */
  "template.reimaged",
  /** its memory image does not match this host, and cannot be made anew, because a command runs in it: its sandboxes boot and run that; build it again */
  "template.stale",
  "build.started",
  "build.ready",
  "build.failed",
  "build.cancelled",
  "snapshot.created",
  "snapshot.deleted",
  "host.registered",
  /** its lease ended; what it runs goes on */
  "host.unreachable",
  "host.back",
  "host.cordoned",
  "host.uncordoned",
  /** nothing runs on it any more */
  "host.drained",
  "host.deleted",
  "team.created",
  /** `detail` has what changed: `name`, `quota` */
  "team.updated",
  "team.deleted",
  "team.member_added",
  "team.member_removed",
  /** of a member's role; `detail.role` is the new one */
  "team.member_changed",
  "key.created",
  "key.revoked",
] as const;
export type EventKind = (typeof eventKinds)[number];

export function isEventKind(kind: string): kind is EventKind {
  return (eventKinds as readonly string[]).includes(kind);
}

/** What events are about. */
export const eventSubjectKinds = ["sandbox", "template", "build", "snapshot", "host", "team", "api_key"] as const;
export type EventSubjectKind = (typeof eventSubjectKinds)[number];

export const eventActorSchema = z
  .object({
    kind: z.enum(["api_key", "user", "host", "system"]).describe("`host`: what a host did of its own accord, or on somebody's behalf"),
    id: z.string(),
    name: z.string().describe("For people"),
  })
  .meta({ id: "EventActor" });
export type EventActor = z.infer<typeof eventActorSchema>;

export const eventSchema = z
  .object({
    id: z.string(),
    position: z.int().nullable().describe("Its place in the stream of events, which grows; null: it is not published yet"),
    time: z.iso.datetime(),
    kind: z.enum(eventKinds),
    subject: z.object({ kind: z.enum(eventSubjectKinds), id: z.string() }).describe("What it is about"),
    actor: eventActorSchema,
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

export const followEventsQuerySchema = z.strictObject({
  sandbox_id: sandboxIdSchema.optional(),
  kinds: z
    .string()
    .max(1024)
    .transform((text) => text.split(",").filter((kind) => kind !== ""))
    .optional()
    .describe("Only these kinds, comma-separated; `sandbox.*` is all of an area"),
  after: z.coerce
    .number()
    .int()
    .min(0)
    .optional()
    .describe("Position of the last event that is known, as the header `Last-Event-ID`, which wins; without either: from now on"),
});
export type FollowEventsQuery = z.output<typeof followEventsQuerySchema>;

/** Sent instead of events that were forgotten before they could be sent. */
export const eventGapSchema = z
  .object({ after: z.int().describe("Position up to which nothing is missing"), until: z.int().describe("and from which on nothing is") })
  .meta({ id: "EventGap" });
export type EventGap = z.infer<typeof eventGapSchema>;

export const eventListSchema = z
  .object({
    events: z.array(eventSchema).describe("Newest first"),
    next_cursor: z.string().nullable().describe("null on the last page"),
  })
  .meta({ id: "EventList" });
export type EventList = z.infer<typeof eventListSchema>;
