import { z } from "zod";

import { userSchema } from "./accounts.ts";
import { pageSizeDefault, pageSizeMax } from "./limits.ts";
import { teamSchema } from "./teams.ts";

/** What admins of the platform see of all teams and users. */

export const adminPageQuerySchema = z.strictObject({
  limit: z.coerce.number().int().min(1).max(pageSizeMax).default(pageSizeDefault),
  cursor: z.string().max(512).optional().describe("`next_cursor` of the page before"),
});
export type AdminPageQuery = z.output<typeof adminPageQuerySchema>;

export const adminTeamSchema = teamSchema
  .extend({
    member_count: z.int(),
    owners: z.array(z.string()).describe("E-mail addresses"),
    sandbox_count: z.int().describe("That have not ended"),
  })
  .meta({ id: "AdminTeam" });
export type AdminTeam = z.infer<typeof adminTeamSchema>;
export const adminTeamListSchema = z
  .object({ teams: z.array(adminTeamSchema).describe("Newest first"), next_cursor: z.string().nullable() })
  .meta({ id: "AdminTeamList" });

export const adminUserSchema = userSchema
  .extend({
    is_active: z.boolean().describe("false: deactivated, cannot sign in"),
    team_count: z.int(),
    last_active_at: z.iso.datetime().nullable().describe("null: has no session"),
  })
  .meta({ id: "AdminUser" });
export type AdminUser = z.infer<typeof adminUserSchema>;
export const adminUserListSchema = z
  .object({ users: z.array(adminUserSchema).describe("Newest first"), next_cursor: z.string().nullable() })
  .meta({ id: "AdminUserList" });

export const setAdminBodySchema = z.strictObject({ is_admin: z.boolean() }).meta({ id: "SetAdmin" });
