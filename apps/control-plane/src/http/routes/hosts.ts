import type { FastifyInstance } from "fastify";

import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addHostRoutes(app: FastifyInstance, { hosts, listTemplates }: Services): void {
  addRoute(app, "listTemplates", 200, async () => ({
    templates: (await listTemplates()).map((template) => ({
      name: template.name,
      kind: template.kind,
      digest: template.digest,
      disk_mb: template.disk_size_mib,
      has_memory: template.has_memory,
      vcpus: template.vcpus === 0 ? null : template.vcpus,
      memory_mb: template.memory_mib === 0 ? null : template.memory_mib,
    })),
  }));
  addRoute(app, "listHosts", 200, async () => ({
    hosts: (await hosts.describe()).map(({ host, description }) => ({ id: host.id, ...description.info })),
  }));
}
