import type { ApiKeyInfo } from "@roost/contract";
import type { FastifyInstance } from "fastify";

import type { ApiKeyRow } from "../../db/api-keys.ts";
import { scopesOfKey } from "../../teams/api-keys.ts";
import { addRoute } from "../route.ts";
import type { Services } from "../services.ts";

/** API keys of the caller's team. */
export function addApiKeyRoutes(app: FastifyInstance, { apiKeys }: Services): void {
  addRoute(app, "createApiKey", 201, async ({ caller, body }) => {
    const wanted = { name: body.name, scopes: body.scopes ?? null, expiresInSec: body.expires_in_sec ?? null };
    const { row, key } = await apiKeys.create(caller, wanted);
    return { ...viewApiKey(row), key };
  });
  addRoute(app, "listApiKeys", 200, async ({ caller }) => ({ keys: (await apiKeys.list(caller.teamId)).map(viewApiKey) }));
  addRoute(app, "deleteApiKey", 204, async ({ caller, params }) => apiKeys.revoke(caller, params.key));
}

function viewApiKey(row: ApiKeyRow): ApiKeyInfo {
  const scopes = scopesOfKey(row);
  return {
    id: row.id,
    name: row.name,
    prefix: row.prefix,
    scopes: [...scopes],
    is_admin: scopes.has("admin"),
    created_at: row.time_created.toISOString(),
    created_by: row.created_by,
    last_used_at: row.time_last_used?.toISOString() ?? null,
    expires_at: row.time_expires?.toISOString() ?? null,
  };
}
