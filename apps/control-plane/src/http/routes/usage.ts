import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addUsageRoutes(app: FastifyInstance, { bookkeeping: { usage } }: Services): void {
  addRoute(app, "getUsage", 200, async ({ caller, query }) => usage.get(caller.teamId, query));
  addRoute(app, "getStats", 200, async ({ caller, query }) => usage.stats(caller.teamId, query));
}
