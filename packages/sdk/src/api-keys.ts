import type { ApiKeyInfo, CreateApiKeyInput, CreatedApiKey } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

/** API keys of the caller's team. Needs the scope `keys:write`. */
export class ApiKeys {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Its `key` is in this answer and never again. It may do no more than who makes it. */
  async create(input: CreateApiKeyInput, options: RequestOptions = {}): Promise<CreatedApiKey> {
    return this.#api.call("createApiKey", { body: input }, options);
  }

  /** Oldest first, without revoked ones. */
  async list(options: RequestOptions = {}): Promise<ApiKeyInfo[]> {
    return (await this.#api.call("listApiKeys", {}, options)).keys;
  }

  /** It stops working within a second. */
  async delete(id: string, options: RequestOptions = {}): Promise<void> {
    await this.#api.call("deleteApiKey", { path: { key: id } }, options);
  }
}
