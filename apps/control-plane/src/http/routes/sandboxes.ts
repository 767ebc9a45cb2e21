import type { FastifyInstance } from "fastify";

import { ownedBy } from "../../db/owned-id.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addSandboxRoutes(app: FastifyInstance, { sandboxes }: Services): void {
  addRoute(app, "createSandbox", 201, async ({ caller, body, signal, operation }) =>
    sandboxes.view(await sandboxes.create(caller.teamId, body, signal, undefined, operation)),
  );
  addRoute(app, "listSandboxes", 200, async ({ caller, query }) => {
    const page = await sandboxes.list(caller.teamId, query);
    return { sandboxes: page.sandboxes.map((row) => sandboxes.view(row)), next_cursor: page.nextCursor };
  });
  addRoute(app, "getSandbox", 200, async ({ caller, params }) =>
    sandboxes.view(await sandboxes.getFresh(ownedBy(caller.teamId, params.id))),
  );
  addRoute(app, "deleteSandbox", 204, async ({ caller, params }) => sandboxes.delete(ownedBy(caller.teamId, params.id)));
  addRoute(app, "pingSandbox", 204, async ({ caller, params }) => sandboxes.ping(ownedBy(caller.teamId, params.id)));
  addRoute(app, "setSandboxTimeout", 200, async ({ caller, params, body }) =>
    sandboxes.view(await sandboxes.setTimeout(ownedBy(caller.teamId, params.id), body.timeout_sec)),
  );
  addRoute(app, "getSandboxMetrics", 200, async ({ caller, params, query }) =>
    sandboxes.metrics(ownedBy(caller.teamId, params.id), query.range),
  );
  addRoute(app, "getSandboxLogs", 200, async ({ caller, params, query, reply }) => {
    void reply.type("text/plain; charset=utf-8");
    return Buffer.from(await sandboxes.console(ownedBy(caller.teamId, params.id), query.bytes));
  });
}
