import {
  adminPageQuerySchema,
  adminTeamListSchema,
  adminTeamSchema,
  adminUserListSchema,
  adminUserSchema,
  setAdminBodySchema,
} from "../admin.ts";
import { teamQuotaSchema } from "../teams.ts";
import type { Endpoint } from "./endpoint.ts";

export const adminEndpoints = {
  adminListTeams: {
    method: "GET",
    path: "/v1/admin/teams",
    access: "admin",
    summary: "All teams",
    query: adminPageQuerySchema,
    answers: { 200: adminTeamListSchema },
    errors: [],
  },
  adminSetQuota: {
    method: "PUT",
    path: "/v1/admin/teams/{team}/quota",
    access: "admin",
    summary: "What a team may have at once, as a whole; what it has already stays",
    body: teamQuotaSchema,
    answers: { 200: adminTeamSchema },
    errors: ["team_not_found"],
  },
  adminListUsers: {
    method: "GET",
    path: "/v1/admin/users",
    access: "admin",
    summary: "All users",
    query: adminPageQuerySchema,
    answers: { 200: adminUserListSchema },
    errors: [],
  },
  adminDeactivateUser: {
    method: "POST",
    path: "/v1/admin/users/{user}/deactivate",
    access: "admin",
    summary: "Lock somebody out: ends their sessions and revokes the API keys that they made",
    answers: { 200: adminUserSchema },
    errors: ["user_not_found", "last_admin"],
  },
  adminActivateUser: {
    method: "POST",
    path: "/v1/admin/users/{user}/activate",
    access: "admin",
    summary: "Let somebody in again; revoked keys stay revoked",
    answers: { 200: adminUserSchema },
    errors: ["user_not_found"],
  },
  adminSetAdmin: {
    method: "PUT",
    path: "/v1/admin/users/{user}/admin",
    access: "admin",
    summary: "Make somebody an admin of the platform, or no admin any more; the last one stays",
    body: setAdminBodySchema,
    answers: { 200: adminUserSchema },
    errors: ["user_not_found", "last_admin"],
  },
} as const satisfies Record<string, Endpoint>;
