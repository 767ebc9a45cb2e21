import { accountEndpoints } from "./accounts.ts";
import { adminEndpoints } from "./admin.ts";
import { apiKeyEndpoints } from "./api-keys.ts";
import { auditEndpoints } from "./audit.ts";
import { buildEndpoints } from "./builds.ts";
import { channelEndpoints } from "./channels.ts";
import { eventEndpoints } from "./events.ts";
import { fileEndpoints } from "./files.ts";
import { hostEndpoints } from "./hosts.ts";
import { operationEndpoints } from "./operations.ts";
import { networkEndpoints } from "./network.ts";
import { portEndpoints } from "./ports.ts";
import { processEndpoints } from "./processes.ts";
import { sandboxEndpoints } from "./sandboxes.ts";
import { snapshotEndpoints } from "./snapshots.ts";
import { teamEndpoints } from "./teams.ts";
import { templateEndpoints } from "./templates.ts";
import { tunnelEndpoints } from "./tunnels.ts";
import { usageEndpoints } from "./usage.ts";
import type { Endpoint } from "./endpoint.ts";

export { auditRuleOf, auditRules, type AuditedEndpointId, type AuditRule, type NotAudited } from "./audited.ts";
export type { Endpoint } from "./endpoint.ts";
export { parameterNames, pathParameters, type ParametersOf } from "./parameters.ts";

/** The native API. Routes, OpenAPI, SDK and tests that ask something of all endpoints come from this table. */
export const endpoints = {
  ...sandboxEndpoints,
  ...networkEndpoints,
  ...portEndpoints,
  ...tunnelEndpoints,
  ...processEndpoints,
  ...fileEndpoints,
  ...snapshotEndpoints,
  ...templateEndpoints,
  ...buildEndpoints,
  ...eventEndpoints,
  ...channelEndpoints,
  ...hostEndpoints,
  ...operationEndpoints,
  ...accountEndpoints,
  ...teamEndpoints,
  ...adminEndpoints,
  ...apiKeyEndpoints,
  ...auditEndpoints,
  ...usageEndpoints,
} as const satisfies Record<string, Endpoint>;

export type EndpointId = keyof typeof endpoints;
