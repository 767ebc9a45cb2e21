import { newApiKey, newId, scopesOfRole, type ApiKeyInfo, type CreateApiKeyInput } from "@roost/contract";

import { FakeError, type FakeHandlers } from "./fake-call.ts";

/** API keys that are only remembered: nothing can be done with them. */
export class LocalKeys {
  readonly all = new Map<string, ApiKeyInfo>();

  handlers(): FakeHandlers["http"] {
    return {
      createApiKey: (call) => {
        const { name, scopes, expires_in_sec: expiresInSec } = call.body as CreateApiKeyInput;
        const key = newApiKey();
        const info: ApiKeyInfo = {
          id: newId("k"),
          name,
          prefix: key.slice("roost_".length, "roost_".length + 6),
          scopes: scopes ?? [...scopesOfRole.member],
          is_admin: scopes?.includes("admin") ?? false,
          created_at: new Date().toISOString(),
          created_by: null,
          last_used_at: null,
          expires_at: expiresInSec === undefined ? null : new Date(Date.now() + expiresInSec * 1000).toISOString(),
        };
        this.all.set(info.id, info);
        return { ...info, key };
      },
      listApiKeys: () => ({ keys: [...this.all.values()] }),
      deleteApiKey: (call) => {
        const id = call.parameters["key"] ?? "";
        if (!this.all.delete(id)) throw new FakeError("api_key_not_found", `API key "${id}" was not found`);
      },
    };
  }
}
