import { z } from "zod";

import { nameLengthMax } from "./limits.ts";

/** Teams: the tenants. Everything that users have belongs to one. */

export const teamIdPattern = /^(?:default|g[a-z0-9]{20})$/;
export const teamIdSchema = z
  .string()
  .regex(teamIdPattern, "a team's id is a g and 20 lower-case letters and digits, or `default`")
  .describe("Team id");

/** The team that is there from the beginning, and that `roost up` works for. */
export const defaultTeamId = "default";

/** What members of a team are in it, from the least to the most. */
export const teamRoles = ["member", "admin", "owner"] as const;
export type TeamRole = (typeof teamRoles)[number];
export const teamRoleSchema = z.enum(teamRoles).describe("`member` uses what the team has; `admin` also runs it; `owner` also ends it");

export const teamNameSchema = z.string().trim().min(1).max(nameLengthMax).describe("For people");

/** Longest slug: it is a DNS label, and a namespace of template names */
const slugLengthMax = 63;
export const teamSlugSchema = z
  .string()
  .regex(
    new RegExp(`^[a-z0-9](?:[a-z0-9-]{0,${slugLengthMax - 2}}[a-z0-9])?$`),
    `a team's slug has at most ${slugLengthMax} lower-case letters, digits and '-', and neither begins nor ends with '-'`,
  )
  .describe("Namespace of its public templates: others know them as `slug/name`");

/** Largest number that a quota can have */
const quotaMax = 2 ** 31 - 1;
const limitSchema = (what: string) => z.int().min(0).max(quotaMax).nullable().default(null).describe(`${what}; null: unlimited`);

/** What a team may have or do at once. */
export const teamQuotaSchema = z
  .strictObject({
    sandboxes: limitSchema("Sandboxes that have not ended"),
    vcpus: limitSchema("Virtual CPUs of those that run, together"),
    memory_mb: limitSchema("Guest memory of those that run, together, in `MiB`"),
    disk_mb: limitSchema("Disks of those that have not ended, together, in `MiB`"),
    builds_at_once: limitSchema("Builds that wait or run"),
    requests_per_minute: limitSchema("Requests to the API"),
  })
  .meta({ id: "TeamQuota" });
export type TeamQuota = z.output<typeof teamQuotaSchema>;

export const teamSchema = z
  .object({
    id: teamIdSchema,
    name: z.string(),
    slug: z.string().describe("Namespace of its public templates"),
    quota: teamQuotaSchema,
    created_at: z.iso.datetime(),
  })
  .meta({ id: "Team" });
export type Team = z.infer<typeof teamSchema>;
