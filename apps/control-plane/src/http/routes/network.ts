import { networkPolicySchema, showEgress } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import { ownedBy } from "../../db/owned-id.ts";
import type { SandboxRow } from "../../db/sandboxes.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

export function addNetworkRoutes(app: FastifyInstance, { sandboxes }: Services): void {
  addRoute(app, "getNetwork", 200, async ({ caller, params }) => view(await sandboxes.get(ownedBy(caller.teamId, params.id))));
  addRoute(app, "setNetwork", 200, async ({ caller, params, body }) =>
    view(await sandboxes.networks.replaceEgress(ownedBy(caller.teamId, params.id), body)),
  );
}

function view(row: SandboxRow) {
  return showEgress(networkPolicySchema.parse(row.network));
}
