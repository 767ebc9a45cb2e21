import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** The platform's admins: all teams and users. */
export function addAdminRoutes(app: FastifyInstance, { accounts }: Services): void {
  const { administration } = accounts;
  addRoute(app, "adminListTeams", 200, async ({ query }) => administration.listTeams(query));
  addRoute(app, "adminSetQuota", 200, async ({ caller, params, body }) => administration.setQuota(caller, params.team, body));
  addRoute(app, "adminListUsers", 200, async ({ query }) => administration.listUsers(query));
  addRoute(app, "adminDeactivateUser", 200, async ({ caller, params }) => administration.deactivate(caller, params.user));
  addRoute(app, "adminActivateUser", 200, async ({ caller, params }) => administration.activate(caller, params.user));
  addRoute(app, "adminSetAdmin", 200, async ({ caller, params, body }) => administration.setAdmin(caller, params.user, body.is_admin));
}
