import { z } from "zod";

import { eventKinds, type EventKind } from "./events.ts";
import { nameLengthMax, pageSizeDefault, pageSizeMax } from "./limits.ts";

/** Channels: where a team's events are sent. */

/** Channels of one team: each event that they want is a row and a request for each */
export const channelsMax = 50;
/** Length of an address, in characters */
const urlLengthMax = 2048;
const tokenLengthMax = 512;

export const channelIdPattern = /^c[a-z0-9]{20}$/;
export const channelIdSchema = z
  .string()
  .regex(channelIdPattern, "a channel's id is a c and 20 lower-case letters and digits")
  .describe("Channel id");
export const deliveryIdSchema = z.uuid("a delivery's id is a UUID").describe("Delivery id");

export const channelKinds = ["webhook", "slack", "discord", "telegram", "teams", "googlechat", "matrix"] as const;
export type ChannelKind = (typeof channelKinds)[number];

export const deliveryStates = ["pending", "delivered", "failed"] as const;
export type DeliveryState = (typeof deliveryStates)[number];

const urlSchema = z
  .string()
  .max(urlLengthMax)
  .refine(isPlainHttpUrl, "it is an http:// or https:// address without a user name, password or #fragment")
  .describe("http or https; no private address unless the operator allows it");

function isPlainHttpUrl(text: string): boolean {
  if (!URL.canParse(text)) return false;
  const { protocol, username, password, hash, hostname } = new URL(text);
  return (protocol === "https:" || protocol === "http:") && username === "" && password === "" && hash === "" && hostname !== "";
}

const token = (pattern: RegExp, message: string) => z.string().max(tokenLengthMax).regex(pattern, message);

/** Where a channel leads, by its kind. Never shown again: addresses of chat services are passwords. */
export const channelConfigSchemas = {
  webhook: z.strictObject({ url: urlSchema }),
  slack: z.strictObject({ url: urlSchema }),
  discord: z.strictObject({ url: urlSchema }),
  teams: z.strictObject({ url: urlSchema }),
  googlechat: z.strictObject({ url: urlSchema }),
  telegram: z.strictObject({
    bot_token: token(/^\d{1,20}:[A-Za-z0-9_-]{20,100}$/, "a bot's token looks like 123456:ABC…"),
    chat_id: token(/^(?:-?\d{1,20}|@[A-Za-z0-9_]{1,64})$/, "a chat's id is a number, or the @name of a channel"),
  }),
  matrix: z.strictObject({
    homeserver_url: urlSchema,
    access_token: token(/^[\x21-\x7e]+$/, "an access token has no spaces"),
    room_id: token(/^![^\s/?#]+$/, "a room's id begins with '!'"),
  }),
} as const satisfies Record<ChannelKind, z.ZodObject>;

const configField = z
  .record(z.string().max(nameLengthMax), z.string().max(urlLengthMax))
  .describe("`url`; of `telegram` `bot_token` and `chat_id`; of `matrix` `homeserver_url`, `access_token` and `room_id`");

const areas = [...new Set(eventKinds.map((kind) => kind.slice(0, kind.indexOf("."))))];
/** A kind of event, or all of an area. */
const kindPatternSchema = z.union([z.enum(eventKinds), z.enum(areas.map((area) => `${area}.*`) as [string, ...string[]])], {
  error: `it is a kind of event, or all of an area, such as \`sandbox.*\`; areas are ${areas.join(", ")}`,
});
const kindsSchema = z.array(kindPatternSchema).max(eventKinds.length).describe("Kinds of events, or `sandbox.*`; empty: all");

/** Whether a list of kinds, as above, has an event's. */
export function includesKind(kinds: readonly string[], kind: EventKind): boolean {
  return kinds.length === 0 || kinds.includes(kind) || kinds.includes(`${kind.slice(0, kind.indexOf("."))}.*`);
}

const channelNameSchema = z
  .string()
  .regex(/^[A-Za-z0-9][A-Za-z0-9._-]*$/, "a name begins with a letter or digit and has letters, digits, '.', '_' and '-'")
  .max(nameLengthMax);

export const createChannelBodySchema = z
  .strictObject({
    name: channelNameSchema,
    kind: z.enum(channelKinds),
    config: configField,
    kinds: kindsSchema.default([]),
    platform_events: z
      .boolean()
      .default(false)
      .describe("Also events that are no team's, such as `host.*`: only for admins of the platform"),
    is_enabled: z.boolean().default(true),
  })
  .meta({ id: "CreateChannel" });
export type CreateChannelBody = z.output<typeof createChannelBodySchema>;
export type CreateChannelInput = z.input<typeof createChannelBodySchema>;

export const updateChannelBodySchema = z
  .strictObject({
    name: channelNameSchema.optional(),
    config: configField.optional(),
    kinds: kindsSchema.optional(),
    is_enabled: z.boolean().optional().describe("What happens while it is not is not sent later"),
  })
  .meta({ id: "UpdateChannel" });
export type UpdateChannelBody = z.output<typeof updateChannelBodySchema>;
export type UpdateChannelInput = z.input<typeof updateChannelBodySchema>;

export const channelSchema = z
  .object({
    id: channelIdSchema,
    name: z.string(),
    kind: z.enum(channelKinds),
    destination: z.string().describe("Scheme and host of where it leads; the rest is not shown"),
    kinds: z.array(z.string()),
    platform_events: z.boolean(),
    is_enabled: z.boolean(),
    failing_since: z.iso.datetime().nullable().describe("Since when no try succeeds"),
    pending: z.int().describe("Deliveries that are yet to be made"),
    failed: z.int().describe("Deliveries that were given up and are still kept"),
    created_at: z.iso.datetime(),
    updated_at: z.iso.datetime(),
  })
  .meta({ id: "Channel" });
export type Channel = z.infer<typeof channelSchema>;

export const channelListSchema = z.object({ channels: z.array(channelSchema).describe("By name") }).meta({ id: "ChannelList" });

export const newChannelSchema = z
  .object({
    channel: channelSchema,
    secret: z.string().nullable().describe("Of a webhook: what its messages are signed with. Shown once"),
  })
  .meta({ id: "NewChannel" });
export type NewChannel = z.infer<typeof newChannelSchema>;

export const channelSecretSchema = z
  .object({
    secret: z.string().describe("The new one. Shown once"),
    old_secret_until: z.iso.datetime().describe("Until then messages are signed with both"),
  })
  .meta({ id: "ChannelSecret" });
export type ChannelSecret = z.infer<typeof channelSecretSchema>;

export const channelTestSchema = z
  .object({
    delivered: z.boolean(),
    status: z.int().nullable().describe("HTTP status of the answer; null: there was none"),
    error: z.string().nullable().describe("Why it was not delivered"),
  })
  .meta({ id: "ChannelTest" });
export type ChannelTest = z.infer<typeof channelTestSchema>;

export const deliverySchema = z
  .object({
    id: deliveryIdSchema.describe("What the receiver knows it by: `webhook-id`, the same at each try"),
    event_id: z.string(),
    event_kind: z.enum(eventKinds),
    position: z.int(),
    state: z.enum(deliveryStates),
    attempts: z.int(),
    next_attempt_at: z.iso.datetime().nullable().describe("null: there is none"),
    last_status: z.int().nullable().describe("HTTP status of the last answer"),
    last_error: z.string().nullable(),
    created_at: z.iso.datetime(),
    ended_at: z.iso.datetime().nullable(),
  })
  .meta({ id: "Delivery" });
export type Delivery = z.infer<typeof deliverySchema>;

export const listDeliveriesQuerySchema = z.strictObject({
  state: z.enum(deliveryStates).optional(),
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(256).optional().describe("`next_cursor` of the page before"),
});
export type ListDeliveriesQuery = z.output<typeof listDeliveriesQuerySchema>;

export const deliveryListSchema = z
  .object({
    deliveries: z.array(deliverySchema).describe("Newest event first"),
    next_cursor: z.string().nullable().describe("null on the last page"),
  })
  .meta({ id: "DeliveryList" });
export type DeliveryList = z.infer<typeof deliveryListSchema>;
