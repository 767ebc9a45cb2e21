import { z } from "zod";

import { apiKeyExpirySecMax, apiKeyExpirySecMin, nameLengthMax } from "./limits.ts";
import { scopeSchema } from "./scopes.ts";

export const apiKeyIdSchema = z
  .string()
  .regex(/^[a-z0-9]{1,40}$/, "an API key's id is 1 to 40 lower-case letters and digits")
  .describe("API key id, not the key itself");

export const createApiKeyBodySchema = z
  .strictObject({
    name: z.string().trim().min(1).max(nameLengthMax).describe("For people: who or what uses it"),
    scopes: z
      .array(scopeSchema)
      .min(1)
      .optional()
      .describe("What it may do, at most what its maker may; default: what a member of the team may"),
    expires_in_sec: z
      .int()
      .min(apiKeyExpirySecMin)
      .max(apiKeyExpirySecMax)
      .optional()
      .describe("When it stops working, in s from now; default: never, or with the key that makes it"),
  })
  .meta({ id: "CreateApiKey" });
export type CreateApiKeyInput = z.input<typeof createApiKeyBodySchema>;

export const apiKeySchema = z
  .object({
    id: apiKeyIdSchema,
    name: z.string(),
    prefix: z.string().describe("First digits of the key, to tell keys apart"),
    scopes: z.array(scopeSchema).describe("What it may do now"),
    is_admin: z.boolean().describe("Whether it may administer the platform"),
    created_at: z.iso.datetime(),
    created_by: z.string().nullable().describe("Id of the user or key that made it; null: the platform"),
    last_used_at: z.iso.datetime().nullable().describe("To the minute; null: never"),
    expires_at: z.iso.datetime().nullable().describe("null: it does not expire"),
  })
  .meta({ id: "ApiKey" });
export type ApiKeyInfo = z.infer<typeof apiKeySchema>;

export const apiKeyListSchema = z
  .object({ keys: z.array(apiKeySchema).describe("Oldest first, without revoked ones") })
  .meta({ id: "ApiKeyList" });

export const createdApiKeySchema = apiKeySchema
  .extend({ key: z.string().describe("The key itself: it is shown here and never again") })
  .meta({ id: "CreatedApiKey" });
export type CreatedApiKey = z.infer<typeof createdApiKeySchema>;
