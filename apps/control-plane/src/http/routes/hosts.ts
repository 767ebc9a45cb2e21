import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addHostRoutes(app: FastifyInstance, { hosts }: Services): void {
  addRoute(app, "listHosts", 200, async () => ({
    hosts: (await hosts.describe()).map(({ host, description }) => ({ id: host.id, ...description.info })),
  }));
}
