import type { ListOperationsQuery, Operation } from "@roost/contract";

import type { Api } from "./api.ts";
import type { RequestOptions } from "./connection.ts";

/** What was asked of the platform that takes time, and what came of it. */
export class Operations {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  async get(id: string, options: RequestOptions = {}): Promise<Operation> {
    return this.#api.call("getOperation", { path: { operation: id } }, options);
  }

  /** Newest first. `subject`: only those about this sandbox. */
  async list(query: Partial<ListOperationsQuery> = {}, options: RequestOptions = {}): Promise<Operation[]> {
    const { subject, limit } = query;
    return (await this.#api.call("listOperations", { query: { subject, limit: limit?.toString() } }, options)).operations;
  }
}
