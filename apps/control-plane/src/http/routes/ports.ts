import type { FastifyInstance } from "fastify";

import { ownedBy } from "../../db/owned-id.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addPortRoutes(app: FastifyInstance, { ports }: Services): void {
  addRoute(app, "getPorts", 200, async ({ caller, params }) => ports.get(ownedBy(caller.teamId, params.id)));
  addRoute(app, "setPorts", 200, async ({ caller, params, body }) => ports.set(ownedBy(caller.teamId, params.id), body));
  addRoute(app, "getPort", 200, async ({ caller, params }) => ports.getPort(ownedBy(caller.teamId, params.id), Number(params.port)));
  addRoute(app, "setPort", 200, async ({ caller, params, body }) =>
    ports.setPort(ownedBy(caller.teamId, params.id), Number(params.port), body.access),
  );
  addRoute(app, "signPort", 201, async ({ caller, params, body }) =>
    ports.sign(ownedBy(caller.teamId, params.id), Number(params.port), body),
  );
  addRoute(app, "getTrafficToken", 200, async ({ caller, params }) => ports.token(ownedBy(caller.teamId, params.id)));
  addRoute(app, "rotateTrafficToken", 200, async ({ caller, params }) => ports.rotate(ownedBy(caller.teamId, params.id)));
}
