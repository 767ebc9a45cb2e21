import type { FastifyInstance } from "fastify";

import type { Services } from "../http/services.ts";
import { addE2bBuildRoutes } from "./builds.ts";
import { addE2bLifecycleRoutes } from "./lifecycle.ts";
import { addE2bLogRoutes } from "./logs.ts";
import { addE2bMetricRoutes } from "./metrics.ts";
import { addE2bNetworkRoutes } from "./network.ts";
import { addRefusedE2bRoutes } from "./route.ts";
import { addE2bSandboxRoutes } from "./sandboxes.ts";
import { addE2bSnapshotRoutes } from "./snapshots.ts";
import { addE2bTeamRoutes } from "./teams.ts";
import { addE2bTemplateRoutes } from "./templates.ts";

/** E2B's control-plane API, beside the native one: the same services, in E2B's words. ./route-table.ts lists it. */
export function addE2bRoutes(app: FastifyInstance, services: Services): void {
  addE2bSandboxRoutes(app, services);
  addE2bLifecycleRoutes(app, services);
  addE2bLogRoutes(app, services);
  addE2bMetricRoutes(app, services);
  addE2bNetworkRoutes(app, services);
  addE2bSnapshotRoutes(app, services);
  addE2bTemplateRoutes(app, services);
  addE2bBuildRoutes(app, services);
  addE2bTeamRoutes(app, services);
  addRefusedE2bRoutes(app);
}
