import type { FastifyInstance } from "fastify";

import { viewSandbox } from "../../sandboxes/sandbox-view.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addSandboxRoutes(app: FastifyInstance, { sandboxes }: Services): void {
  addRoute(app, "createSandbox", 201, async ({ body, signal }) => viewSandbox(await sandboxes.create(body, signal)));
  addRoute(app, "listSandboxes", 200, async ({ query }) => {
    const page = await sandboxes.list(query);
    return { sandboxes: page.sandboxes.map(viewSandbox), next_cursor: page.nextCursor };
  });
  addRoute(app, "getSandbox", 200, async ({ params }) => viewSandbox(await sandboxes.getFresh(params.id)));
  addRoute(app, "deleteSandbox", 204, async ({ params }) => sandboxes.delete(params.id));
  addRoute(app, "pingSandbox", 204, async ({ params }) => sandboxes.ping(params.id));
  addRoute(app, "setSandboxTimeout", 200, async ({ params, body }) => viewSandbox(await sandboxes.setTimeout(params.id, body.timeout_sec)));
  addRoute(app, "getSandboxMetrics", 200, async ({ params, query }) => sandboxes.metrics(params.id, query.range));
  addRoute(app, "getSandboxLogs", 200, async ({ params, query, reply }) => {
    void reply.type("text/plain; charset=utf-8");
    return Buffer.from(await sandboxes.console(params.id, query.bytes));
  });
}
