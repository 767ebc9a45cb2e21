import { apiKeyListSchema, createApiKeyBodySchema, createdApiKeySchema } from "../api-keys.ts";
import type { Endpoint } from "./endpoint.ts";

export const apiKeyEndpoints = {
  createApiKey: {
    method: "POST",
    path: "/v1/keys",
    access: "keys:write",
    summary: "Make an API key for the team; it can do nothing that its maker cannot",
    body: createApiKeyBodySchema,
    answers: { 201: createdApiKeySchema },
    errors: ["admin_only"],
  },
  listApiKeys: {
    method: "GET",
    path: "/v1/keys",
    access: "keys:write",
    summary: "API keys of the team, oldest first, without revoked ones",
    answers: { 200: apiKeyListSchema },
    errors: [],
  },
  deleteApiKey: {
    method: "DELETE",
    path: "/v1/keys/{key}",
    access: "keys:write",
    summary: "Revoke an API key: it stops working within a second",
    answers: { 204: "empty" },
    errors: ["api_key_not_found"],
  },
} as const satisfies Record<string, Endpoint>;
