import { z } from "zod";

import { accountTokenSchema, emailSchema, userIdSchema } from "./accounts.ts";
import { teamNameSchema, teamRoleSchema, teamSchema } from "./teams.ts";

/** Who is in a team, and who is asked to be. */

export const createTeamBodySchema = z.strictObject({ name: teamNameSchema }).meta({ id: "CreateTeam" });
export const updateTeamBodySchema = z.strictObject({ name: teamNameSchema }).meta({ id: "UpdateTeam" });

/** A team as its members see it. */
export const ownTeamSchema = teamSchema
  .extend({ role: teamRoleSchema.nullable().describe("The caller's; null: an API key") })
  .meta({ id: "OwnTeam" });
export type OwnTeam = z.infer<typeof ownTeamSchema>;
export const teamListSchema = z.object({ teams: z.array(ownTeamSchema).describe("By name") }).meta({ id: "TeamList" });

export const memberSchema = z
  .object({
    user_id: userIdSchema,
    name: z.string(),
    email: z.string(),
    role: teamRoleSchema,
    joined_at: z.iso.datetime(),
  })
  .meta({ id: "Member" });
export type Member = z.infer<typeof memberSchema>;
export const memberListSchema = z
  .object({ members: z.array(memberSchema).describe("In the order in which they joined") })
  .meta({ id: "MemberList" });

/** A team has one owner more only by being handed over. */
const givenRoleSchema = z.enum(["member", "admin"]);
export const setRoleBodySchema = z.strictObject({ role: givenRoleSchema }).meta({ id: "SetRole" });
export const transferTeamBodySchema = z
  .strictObject({ user_id: userIdSchema.describe("A member, who becomes its owner") })
  .meta({ id: "TransferTeam" });

export const invitationIdSchema = z
  .string()
  .regex(/^v[a-z0-9]{20}$/, "an invitation's id is a v and 20 lower-case letters and digits")
  .describe("Invitation id");
export const inviteBodySchema = z.strictObject({ email: emailSchema, role: givenRoleSchema.default("member") }).meta({ id: "Invite" });
export type InviteInput = z.input<typeof inviteBodySchema>;
export const invitationSchema = z
  .object({
    id: invitationIdSchema,
    email: z.string(),
    role: teamRoleSchema,
    invited_by: z.string().describe("Name of who did"),
    created_at: z.iso.datetime(),
    expires_at: z.iso.datetime(),
  })
  .meta({ id: "Invitation" });
export type Invitation = z.infer<typeof invitationSchema>;
export const invitationListSchema = z
  .object({ invitations: z.array(invitationSchema).describe("Those that can still be accepted, newest first") })
  .meta({ id: "InvitationList" });
export const acceptInvitationBodySchema = z.strictObject({ token: accountTokenSchema }).meta({ id: "AcceptInvitation" });
