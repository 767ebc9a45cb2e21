import { PlatformError } from "@roost/contract";
import { second, withDeadline } from "@roost/kit";
import type { FastifyInstance } from "fastify";

import { buildOpenApi } from "../openapi.ts";
import type { Services } from "../services.ts";

/** Time the database has to answer a health check in `ms` */
const pingTimeoutMs = 2 * second;

/** Routes that are not part of the versioned API. */
export const systemRoutes = [
  { method: "GET", path: "/health" },
  { method: "GET", path: "/metrics" },
  { method: "GET", path: "/openapi.json" },
  { method: "GET", path: "/docs" },
  { method: "GET", path: "/docs/{file}" },
  { method: "GET", path: "/" },
] as const;

export function addSystemRoutes(app: FastifyInstance, services: Services): void {
  // No body, as E2B has it: a healthy platform has nothing to tell that /v1/hosts and /openapi.json do not tell those who may know
  app.get("/health", { config: { access: "open", operationId: "health" } }, async (_request, reply) => {
    await withDeadline("the database's answer", pingTimeoutMs, services.ping()).catch((error: unknown) => {
      throw new PlatformError("internal", "the database does not answer", { cause: error });
    });
    const links = services.hosts.all();
    if (!links.some((link) => link.isWatching))
      throw new PlatformError("host_unreachable", `none of ${links.length} hosts can be reached`, { retryAfterSec: 5 });
    return reply.code(204).send();
  });

  app.get("/metrics", { config: { access: "admin", operationId: "metrics" } }, async (_request, reply) =>
    reply.type(services.metrics.contentType).send(await services.metrics.text()),
  );

  const openApi = JSON.stringify(buildOpenApi());
  app.get("/openapi.json", { config: { access: "open", operationId: "openapi" } }, async (_request, reply) =>
    reply.type("application/json").send(openApi),
  );

  app.get("/", { config: { access: "open", operationId: "root" } }, async (_request, reply) => reply.redirect("/docs"));
}
