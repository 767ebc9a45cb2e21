import type { FastifyInstance } from "fastify";

import { viewOperation } from "../../operations/operation-view.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addOperationRoutes(app: FastifyInstance, { sandboxes }: Services): void {
  const { operations } = sandboxes;
  addRoute(app, "listOperations", 200, async ({ caller, query }) => ({
    operations: (await operations.list(caller.teamId, query)).map(viewOperation),
  }));
  addRoute(app, "getOperation", 200, async ({ caller, params }) => viewOperation(await operations.get(caller.teamId, params.operation)));
}
