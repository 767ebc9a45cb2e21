import type { CreateSandboxInput, Host, MetricsRange, Metrics, Sandbox, SandboxList, SandboxState } from "@roost/contract";

import { Api } from "./api.ts";
import { createConnection, createTimeoutMsDefault, type RequestOptions, type RoostClientOptions } from "./connection.ts";
import type { AnswerOf } from "./operation-types.ts";
import { SandboxHandle } from "./sandbox-handle.ts";

export interface ListOptions extends RequestOptions {
  /** Default: all but `stopped`. */
  readonly states?: readonly SandboxState[] | undefined;
  readonly template?: string | undefined;
  /** Only sandboxes that carry all of these. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Sandboxes per page. */
  readonly limit?: number | undefined;
}

/**
 * The native API of a Roost platform.
 *
 *     const roost = new RoostClient({ url: "http://127.0.0.1:7070", apiKey });
 *     const { id } = await roost.sandboxes.create({ template: "base" });
 *     const result = await roost.sandbox(id).exec("uname", { args: ["-a"] });
 */
export class RoostClient {
  readonly sandboxes: Sandboxes;
  readonly url: string;
  readonly #api: Api;

  constructor(options: RoostClientOptions) {
    const connection = createConnection(options);
    this.url = connection.url.href.replace(/\/$/, "");
    this.#api = new Api(connection);
    this.sandboxes = new Sandboxes(this.#api);
  }

  sandbox(id: string): SandboxHandle {
    return new SandboxHandle(this.#api, id);
  }

  async templates(options: RequestOptions = {}): Promise<AnswerOf<"listTemplates">["templates"]> {
    return (await this.#api.call("listTemplates", {}, options)).templates;
  }

  async hosts(options: RequestOptions = {}): Promise<Host[]> {
    return (await this.#api.call("listHosts", {}, options)).hosts;
  }
}

export class Sandboxes {
  readonly #api: Api;

  constructor(api: Api) {
    this.#api = api;
  }

  /** Resolves when the first command can run. */
  async create(input: CreateSandboxInput = {}, options: RequestOptions = {}): Promise<Sandbox> {
    return this.#api.call("createSandbox", { body: input }, { ...options, timeoutMs: options.timeoutMs ?? createTimeoutMsDefault });
  }

  /** All sandboxes, newest first; further pages are fetched as they are reached. */
  async *list(options: ListOptions = {}): AsyncGenerator<Sandbox, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.listPage(options, cursor);
      yield* page.sandboxes;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async listPage(options: ListOptions = {}, cursor?: string): Promise<SandboxList> {
    const query = {
      state: options.states?.join(","),
      template: options.template,
      metadata: options.metadata === undefined ? undefined : Object.entries(options.metadata).map(([key, value]) => `${key}=${value}`),
      limit: options.limit === undefined ? undefined : String(options.limit),
      cursor,
    };
    return this.#api.call("listSandboxes", { query }, options);
  }

  async get(id: string, options: RequestOptions = {}): Promise<Sandbox> {
    return new SandboxHandle(this.#api, id).get(options);
  }

  /** Ends a sandbox and deletes its disk; a create in flight is aborted. */
  async delete(id: string, options: RequestOptions = {}): Promise<void> {
    await new SandboxHandle(this.#api, id).delete(options);
  }

  async ping(id: string, options: RequestOptions = {}): Promise<void> {
    await new SandboxHandle(this.#api, id).ping(options);
  }

  async setTimeout(id: string, timeoutSec: number, options: RequestOptions = {}): Promise<Sandbox> {
    return new SandboxHandle(this.#api, id).setTimeout(timeoutSec, options);
  }

  async metrics(id: string, range?: MetricsRange, options: RequestOptions = {}): Promise<Metrics> {
    return new SandboxHandle(this.#api, id).metrics(range, options);
  }

  async logs(id: string, bytes?: number, options: RequestOptions = {}): Promise<Buffer> {
    return new SandboxHandle(this.#api, id).logs(bytes, options);
  }
}
