import type {
  Checkpoint,
  CreateSandboxInput,
  Event,
  EventList,
  ForkResult,
  Generation,
  Host,
  MetricsRange,
  Metrics,
  Sandbox,
  SandboxList,
  SandboxState,
} from "@roost/contract";

import { Api } from "./api.ts";
import { createConnection, createTimeoutMsDefault, type RequestOptions, type RoostClientOptions } from "./connection.ts";
import { SandboxHandle, type ForkOptions, type PauseOptions, type ResumeOptions } from "./sandbox-handle.ts";
import { Snapshots } from "./snapshots.ts";
import { Builds } from "./templates/builds.ts";
import { Templates } from "./templates/templates.ts";

export interface ListOptions extends RequestOptions {
  /** Default: all but `stopped`. */
  readonly states?: readonly SandboxState[] | undefined;
  readonly template?: string | undefined;
  /** Only sandboxes that carry all of these. */
  readonly metadata?: Readonly<Record<string, string>> | undefined;
  /** Sandboxes per page. */
  readonly limit?: number | undefined;
}

export interface EventOptions extends RequestOptions {
  /** Only those of one sandbox. */
  readonly sandboxId?: string | undefined;
  /** Events per page. */
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
  readonly snapshots: Snapshots;
  readonly templates: Templates;
  readonly builds: Builds;
  readonly url: string;
  readonly #api: Api;

  constructor(options: RoostClientOptions) {
    const connection = createConnection(options);
    this.url = connection.url.href.replace(/\/$/, "");
    this.#api = new Api(connection);
    this.sandboxes = new Sandboxes(this.#api);
    this.snapshots = new Snapshots(this.#api);
    this.builds = new Builds(this.#api);
    this.templates = new Templates(this.#api, this.builds);
  }

  sandbox(id: string): SandboxHandle {
    return new SandboxHandle(this.#api, id);
  }

  /** What happened, newest first; further pages are fetched as they are reached. */
  async *events(options: EventOptions = {}): AsyncGenerator<Event, void, void> {
    let cursor: string | undefined;
    do {
      const page = await this.eventsPage(options, cursor);
      yield* page.events;
      cursor = page.next_cursor ?? undefined;
    } while (cursor !== undefined);
  }

  async eventsPage(options: EventOptions = {}, cursor?: string): Promise<EventList> {
    const query = { sandbox_id: options.sandboxId, limit: options.limit === undefined ? undefined : String(options.limit), cursor };
    return this.#api.call("listEvents", { query }, options);
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

  /** Ends a sandbox and deletes its disk and generations; a create in flight is aborted. */
  async delete(id: string, options: RequestOptions = {}): Promise<void> {
    await new SandboxHandle(this.#api, id).delete(options);
  }

  /** Saves a sandbox with its memory and frees what it holds. */
  async pause(id: string, options: PauseOptions = {}): Promise<Sandbox> {
    return new SandboxHandle(this.#api, id).pause(options);
  }

  /** Starts a paused sandbox where it was. */
  async resume(id: string, options: ResumeOptions = {}): Promise<Sandbox> {
    return new SandboxHandle(this.#api, id).resume(options);
  }

  async checkpoint(id: string, options: RequestOptions = {}): Promise<Checkpoint> {
    return new SandboxHandle(this.#api, id).checkpoint(options);
  }

  async rollback(id: string, generation: number, options: RequestOptions = {}): Promise<Sandbox> {
    return new SandboxHandle(this.#api, id).rollback(generation, options);
  }

  async generations(id: string, options: RequestOptions = {}): Promise<Generation[]> {
    return new SandboxHandle(this.#api, id).generations(options);
  }

  async fork(id: string, count: number, options: ForkOptions = {}): Promise<ForkResult[]> {
    return new SandboxHandle(this.#api, id).fork(count, options);
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
