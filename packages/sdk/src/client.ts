import type {
  Checkpoint,
  CreateSandboxInput,
  ForkResult,
  Generation,
  MetricsRange,
  Metrics,
  Sandbox,
  SandboxList,
  SandboxState,
  Stats,
  StatsRange,
  Usage,
  UsageGroup,
} from "@roost/contract";

import { Account } from "./account.ts";
import { Administration } from "./administration.ts";
import { ApiKeys } from "./api-keys.ts";
import { Operations } from "./operations.ts";
import { Api } from "./api.ts";
import { AuditLog } from "./audit.ts";
import { Channels } from "./channels.ts";
import { createConnection, createTimeoutMsDefault, type RequestOptions, type RoostClientOptions } from "./connection.ts";
import { Events } from "./events.ts";
import { Hosts } from "./hosts.ts";
import { SandboxHandle, type ForkOptions, type PauseOptions, type ResumeOptions } from "./sandbox-handle.ts";
import { Snapshots } from "./snapshots.ts";
import { Teams } from "./teams.ts";
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

export interface UsageOptions extends RequestOptions {
  /** A day or an instant; default: 30 days before `to` */
  readonly from?: string | undefined;
  /** Default: now */
  readonly to?: string | undefined;
  readonly group?: UsageGroup | undefined;
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
  readonly events: Events;
  readonly channels: Channels;
  readonly keys: ApiKeys;
  readonly operations: Operations;
  readonly account: Account;
  readonly teams: Teams;
  readonly admin: Administration;
  readonly hosts: Hosts;
  readonly audit: AuditLog;
  readonly url: string;
  readonly #api: Api;

  constructor(options: RoostClientOptions) {
    const connection = createConnection(options);
    this.url = connection.url.href.replace(/\/$/, "");
    this.#api = new Api(connection);
    this.sandboxes = new Sandboxes(this.#api);
    this.snapshots = new Snapshots(this.#api);
    this.builds = new Builds(this.#api);
    this.events = new Events(this.#api);
    this.channels = new Channels(this.#api);
    this.keys = new ApiKeys(this.#api);
    this.operations = new Operations(this.#api);
    this.account = new Account(this.#api);
    this.teams = new Teams(this.#api);
    this.admin = new Administration(this.#api);
    this.hosts = new Hosts(this.#api);
    this.audit = new AuditLog(this.#api);
    this.templates = new Templates(this.#api, this.builds);
  }

  sandbox(id: string): SandboxHandle {
    return new SandboxHandle(this.#api, id);
  }

  /** What the team's sandboxes used; exact, from when each ran. Needs the scope `usage:read`. */
  async usage(options: UsageOptions = {}): Promise<Usage> {
    return this.#api.call("getUsage", { query: { from: options.from, to: options.to, group: options.group } }, options);
  }

  /** How many sandboxes run, and with what: now, at most, and over time. */
  async stats(range?: StatsRange, options: RequestOptions = {}): Promise<Stats> {
    return this.#api.call("getStats", { query: { range } }, options);
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
