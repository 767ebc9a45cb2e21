import type { IncomingHttpHeaders } from "node:http";

import type { ApiKey, ApiKeys } from "../teams/api-keys.ts";

/** The caller of a request, by `X-API-Key` or `Authorization: Bearer`. Never by URL: those end up in logs. */
export async function authenticate(apiKeys: ApiKeys, headers: IncomingHttpHeaders): Promise<ApiKey> {
  return apiKeys.check(keyIn(headers));
}

/** The key as the caller sent it. */
export function keyIn(headers: IncomingHttpHeaders): string | undefined {
  const key = headers["x-api-key"];
  if (typeof key === "string") return key;
  return /^bearer +(\S+)$/i.exec(headers.authorization ?? "")?.[1];
}
