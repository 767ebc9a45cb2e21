/**
 * The states of a host, as the control plane wants it, and the views of it.
 *
 *     pending ──register──▶ ready ──cordon──▶ cordoned
 *                             ▲ │  ◀─uncordon── │ ▲
 *                    uncordon │ │ drain   drain │ │ cordon
 *                             │ ▼               ▼ │
 *                            draining ◀───────────┘
 *
 * Operators move a host between the last three; only its registration ends `pending`. Registering again (with a new token: a host
 * that lost its certificate) keeps the state. A host is deleted from any state and has none then.
 *
 * `unreachable` is no state: it is what a host is called whose lease has ended, whatever its state. It comes and goes by
 * itself, and nothing that is recorded of the host's sandboxes changes by it.
 */
import { z } from "zod";

import {
  hostAddressSchema,
  hostDescriptionSchema,
  hostHealthSchema,
  hostLoadSchema,
  hostTagSchema,
  hostTagsMax,
} from "./host-registration.ts";
import { hostIdSchema, sandboxIdSchema } from "./ids.ts";
import { nameLengthMax } from "./limits.ts";

export const hostStates = ["pending", "ready", "cordoned", "draining"] as const;
export type HostState = (typeof hostStates)[number];

/** What becomes of the sandboxes of a host that is drained: they are paused, or run until they end or pause by themselves, or go on at other hosts. */
export const drainModes = ["pause", "wait", "move"] as const;
export type DrainMode = (typeof drainModes)[number];

export type HostRequest = "register" | "cordon" | "uncordon" | "drain";

export type HostDecision = { readonly kind: "accept"; readonly next: HostState } | { readonly kind: "ignore" } | { readonly kind: "deny" };

/** What a request means in a state. Draining a host that is drained already is accepted, as the mode may be another. */
export function decideHost(state: HostState, request: HostRequest): HostDecision {
  if (request === "register") return state === "pending" ? { kind: "accept", next: "ready" } : { kind: "ignore" };
  if (state === "pending") return { kind: "deny" };
  const next = ({ cordon: "cordoned", uncordon: "ready", drain: "draining" } as const)[request];
  return next === state && request !== "drain" ? { kind: "ignore" } : { kind: "accept", next };
}

/** Whether a host in this state takes sandboxes that were not on it before. */
export function hostTakesSandboxes(state: HostState): boolean {
  return state === "ready";
}

/** Whether sandboxes that are saved on a host in this state may start there again. */
export function hostResumesSandboxes(state: HostState): boolean {
  return state === "ready" || state === "cordoned";
}

/** A host as users see it who may see their sandboxes on it. */
export const seenHostStates = [...hostStates, "unreachable"] as const;
export type SeenHostState = (typeof seenHostStates)[number];

export const hostNameSchema = z
  .string()
  .min(1)
  .max(nameLengthMax)
  .regex(/^[\p{L}\p{N}](?:[\p{L}\p{N} ._-]*[\p{L}\p{N}])?$/u, "a host's name is letters and digits, with spaces, . _ - between them")
  .describe("For people");

const tagsSchema = z
  .array(hostTagSchema)
  .max(hostTagsMax)
  .transform((tags) => [...new Set(tags)].sort());
const hostTeamSchema = z.string().max(nameLengthMax).nullable().describe("The team that alone gets sandboxes on it; null: all teams");

export const hostSchema = z
  .object({
    id: hostIdSchema,
    name: hostNameSchema,
    state: z.enum(hostStates).describe("As the operator wants it; `pending`: it has not registered yet"),
    is_reachable: z.boolean().describe("Its lease has not ended: it was heard of recently"),
    address: hostAddressSchema
      .nullable()
      .describe("Where its host agent is reached; null: it has not registered, or is part of the control plane's process"),
    team_id: hostTeamSchema,
    tags: z.array(z.string()),
    description: hostDescriptionSchema.nullable().describe("What it is; null: it has not said yet"),
    load: hostLoadSchema.nullable().describe("How much of that is in use, as it said last"),
    health: hostHealthSchema.nullable().describe("How it is by its own judgement, as it said last"),
    clock_offset_ms: z.int().nullable().describe("Its clock less the control plane's, in `ms`, with the way of the message"),
    certificate: z
      .object({ fingerprint: z.string().describe("SHA-256, hex"), time_expires: z.iso.datetime() })
      .nullable()
      .describe("That it has; null: none"),
    drain: z
      .object({
        mode: z.enum(drainModes),
        time_started: z.iso.datetime(),
        time_done: z.iso.datetime().nullable().describe("Since when no sandbox runs on it, or with `move` none is on it; null: some do"),
        problem: z.string().nullable().describe("What kept a sandbox from being paused or moved, last"),
      })
      .nullable()
      .describe("null: it is not being drained"),
    time_created: z.iso.datetime(),
    time_last_seen: z.iso.datetime().nullable().describe("When it was heard of last"),
  })
  .meta({ id: "Host" });
export type Host = z.infer<typeof hostSchema>;
export const hostListSchema = z.object({ hosts: z.array(hostSchema) }).meta({ id: "HostList" });

export const createHostBodySchema = z.strictObject({
  name: hostNameSchema,
  tags: tagsSchema.default([]),
  team_id: hostTeamSchema.default(null),
});
export type CreateHostInput = z.input<typeof createHostBodySchema>;
export type CreateHostBody = z.output<typeof createHostBodySchema>;

export const updateHostBodySchema = z.strictObject({
  name: hostNameSchema.optional(),
  tags: tagsSchema.optional().describe("In place of those it has"),
  team_id: hostTeamSchema.optional(),
});
export type UpdateHostBody = z.output<typeof updateHostBodySchema>;

export const drainHostBodySchema = z.strictObject({
  mode: z
    .enum(drainModes)
    .default("pause")
    .describe(
      "`pause`: sandboxes that run are paused, a few at a time; `wait`: they go on until they end or pause by themselves; `move`: all of them, saved ones too, are moved to other hosts, where those that ran run again",
    ),
});

export const hostTokenSchema = z
  .object({
    token: z.string().describe("For `roost host-agent --register`; works once; shown only now"),
    time_expires: z.iso.datetime(),
  })
  .meta({ id: "HostToken" });
export type HostToken = z.infer<typeof hostTokenSchema>;

export const createdHostSchema = z.object({ host: hostSchema, registration: hostTokenSchema }).meta({ id: "CreatedHost" });
export type CreatedHost = z.infer<typeof createdHostSchema>;

export const deleteHostQuerySchema = z.strictObject({
  force: z.stringbool().default(false).describe("Also when sandboxes are on it: they are lost"),
});

/** Most sandboxes and templates that a preview lists each; the counts are of all */
export const hostDeletionListMax = 1000;

export const hostDeletionSchema = z
  .object({
    sandbox_count: z.int(),
    sandboxes: z
      .array(z.object({ id: sandboxIdSchema, state: z.string(), team_id: z.string() }))
      .describe("That are lost with it; the first of them"),
    template_count: z.int(),
    templates: z.array(z.string()).describe("That no other host has; the first of them"),
  })
  .meta({ id: "HostDeletion" });
export type HostDeletion = z.infer<typeof hostDeletionSchema>;
