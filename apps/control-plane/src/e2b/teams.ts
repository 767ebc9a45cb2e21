import type { FastifyInstance } from "fastify";

import { keyIn } from "../http/authentication.ts";
import type { Services } from "../http/services.ts";
import { addE2bRoute } from "./route.ts";

/** Teams: E2B's CLI asks for them at its login, and then uses the key that comes with the one that is chosen. The caller acts for one, with its own key. */
export function addE2bTeamRoutes(app: FastifyInstance, { teams }: Services): void {
  addE2bRoute(app, "listTeams", {}, async ({ caller, request }) => {
    const apiKey = (keyIn(request.headers) ?? "").replace(/^roost_/, "e2b_");
    return [{ teamID: caller.teamId, name: await teams.nameOf(caller.teamId), apiKey, isDefault: true }];
  });
}
