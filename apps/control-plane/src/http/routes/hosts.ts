import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** What operators do with hosts. */
export function addHostRoutes(app: FastifyInstance, { hostAdministration: hosts }: Services): void {
  addRoute(app, "listHosts", 200, async () => ({ hosts: await hosts.list() }));
  addRoute(app, "createHost", 201, async ({ caller, body }) => hosts.create(caller, body));
  addRoute(app, "getHost", 200, async ({ params }) => hosts.get(params.host));
  addRoute(app, "updateHost", 200, async ({ caller, params, body }) => hosts.update(caller, params.host, body));
  addRoute(app, "createHostToken", 201, async ({ caller, params }) => hosts.createToken(caller, params.host));
  addRoute(app, "cordonHost", 200, async ({ caller, params }) => hosts.cordon(caller, params.host));
  addRoute(app, "uncordonHost", 200, async ({ caller, params }) => hosts.uncordon(caller, params.host));
  addRoute(app, "drainHost", 200, async ({ caller, params, body }) => hosts.drain(caller, params.host, body.mode));
  addRoute(app, "previewHostDeletion", 200, async ({ params }) => hosts.previewDeletion(params.host));
  addRoute(app, "deleteHost", 204, async ({ caller, params, query }) => hosts.delete(caller, params.host, query));
}
