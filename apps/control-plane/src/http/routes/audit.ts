import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addAuditRoutes(app: FastifyInstance, { bookkeeping }: Services): void {
  const { auditLog, auditQueue } = bookkeeping;
  addRoute(app, "listAudit", 200, async ({ caller, query }) => {
    await auditQueue.flush(); // who asks what was done sees what they have done
    return auditLog.list(caller, query);
  });
  addRoute(app, "verifyAudit", 200, async ({ caller, query }) => auditLog.verify(caller, query));
}
