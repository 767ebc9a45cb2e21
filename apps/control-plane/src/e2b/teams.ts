import type { FastifyInstance } from "fastify";

import { keyIn } from "../http/authentication.ts";
import { addE2bRoute } from "./route.ts";

/** The one team there is. */
const teamId = "00000000-0000-0000-0000-000000000001";

/** Teams: E2B's CLI asks for them at its login, and then uses the key that comes with the one that is chosen. That is the caller's own. */
export function addE2bTeamRoutes(app: FastifyInstance): void {
  addE2bRoute(app, "listTeams", {}, async ({ request }) => [
    { teamID: teamId, name: "default", apiKey: (keyIn(request.headers) ?? "").replace(/^roost_/, "e2b_"), isDefault: true },
  ]);
}
