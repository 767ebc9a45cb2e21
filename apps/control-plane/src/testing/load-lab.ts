import { mkdtemp, rm } from "node:fs/promises";
import { Agent, request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";

import { createSandboxBodySchema, defaultTeamId, newSandboxId, vmOverheadMib } from "@roost/contract";
import { Cleanup, silentLogger } from "@roost/kit";

import { createControlPlane } from "../control-plane.ts";
import { openDatabase, type Database, type DatabaseLocation } from "../db/database.ts";
import { tidyTables } from "../db/embedded-upkeep.ts";
import { ensureHost } from "../db/hosts.ts";
import { insertSandboxes } from "../db/sandboxes.ts";
import { HostLink } from "../hosts/host-link.ts";
import { unknownStanding } from "../hosts/host-standing.ts";
import { Hosts } from "../hosts/hosts.ts";
import { controlPlaneOptions } from "../options.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { FakeHost } from "./fake-host.ts";
import { plainSandbox } from "./plain-sandbox.ts";
import { newEngine } from "./pglite-engines.ts";
import { startPostgres } from "./postgres.ts";

/** Rows that are inserted at once: PostgreSQL takes 65,535 parameters */
const chunk = 500;

/** Requests to the API, each of which is read to its end. */
export interface LoadApi {
  readonly get: (index: number) => Promise<void>;
  /** The first page of 100 */
  readonly list: () => Promise<void>;
}

/** A control plane's services with many sandboxes in its records and on hosts without a host. For benchmarks. */
export class LoadLab implements AsyncDisposable {
  readonly database: Database;
  readonly hosts: readonly FakeHost[];
  readonly sandboxes: Sandboxes;
  readonly ids: string[] = [];
  readonly #links: readonly HostLink[];
  readonly #cleanup: Cleanup;

  private constructor(database: Database, hosts: readonly FakeHost[], cleanup: Cleanup) {
    this.database = database;
    this.hosts = hosts;
    this.#cleanup = cleanup;
    this.#links = hosts.map((host) => new HostLink(host, silentLogger));
    const known = new Hosts(this.#links);
    for (const { id } of hosts) known.setStanding(id, { ...unknownStanding }); // as the host directory has read it
    this.sandboxes = new Sandboxes({ database, hosts: known, log: silentLogger, onEnded: () => undefined });
  }

  static async start(kind: "PGlite" | "PostgreSQL", hostCount: number): Promise<LoadLab> {
    const cleanup = new Cleanup();
    const location = kind === "PGlite" ? await memoryLocation(cleanup) : await serverLocation(cleanup);
    const database = await openDatabase(location, silentLogger);
    cleanup.defer("close the database", () => database.close());
    const hosts = Array.from({ length: hostCount }, (_, index) => {
      const host = new FakeHost(`host-${index}`, () => 1);
      host.size = { ...host.size, cpuCount: 10_000, sandboxCountMax: 100_000, memoryLimitMib: 100_000 * (512 + vmOverheadMib) };
      return host;
    });
    for (const { id } of hosts) await ensureHost(database.db, id, new Date());
    return new LoadLab(database, hosts, cleanup);
  }

  /** So many that run, spread over the hosts. */
  async fill(count: number): Promise<void> {
    for (let start = 0; start < count; start += chunk) {
      const added = Array.from({ length: Math.min(chunk, count - start) }, (_, index) => {
        const host = this.hosts[(start + index) % this.hosts.length];
        const id = newSandboxId();
        host?.add({ sandboxId: id });
        return {
          ...plainSandbox,
          id,
          hostId: host?.id ?? "",
          timeCreated: new Date(),
        };
      });
      await insertSandboxes(this.database.db, added);
      this.ids.push(...added.map(({ id }) => id));
    }
    await this.database.db.updateTable("sandbox").set({ state: "running", generation: 1, time_started: new Date() }).execute();
    if (this.database.isExclusive) await tidyTables(this.database.db); // as a control plane does each minute; a server does it by itself
  }

  async get(index: number): Promise<void> {
    await this.sandboxes.get({ id: this.ids[index % this.ids.length] ?? "", team_id: defaultTeamId });
  }

  /** A page of 100, after so many pages. */
  async list(pagesBefore: number): Promise<void> {
    let cursor: string | null = null;
    for (let page = 0; page <= pagesBefore; page += 1) {
      const query = { limit: 100, ...(cursor === null ? {} : { cursor }) };
      ({ nextCursor: cursor } = await this.sandboxes.list(defaultTeamId, query));
      if (cursor === null) return;
    }
  }

  async create(): Promise<void> {
    await this.sandboxes.create(defaultTeamId, createSandboxBodySchema.parse({ memory_mb: 512 }), new AbortController().signal);
  }

  /** A whole control plane on the same records and hosts, that listens on loopback. To be called once, after `fill`. */
  async serve(): Promise<LoadApi> {
    const dir = await mkdtemp(join(tmpdir(), "roost-load-"));
    this.#cleanup.defer("remove the state folder", () => rm(dir, { recursive: true, force: true }));
    const controlPlane = await createControlPlane(
      { ...controlPlaneOptions.read({}), port: 0, drainTimeoutSec: 1, dir },
      { hosts: this.hosts, database: this.database, log: silentLogger },
    );
    this.#cleanup.defer("close the control plane", () => controlPlane.close());
    const { url } = await controlPlane.listen();
    const { key } = await controlPlane.apiKeys.createForPlatform("load");
    const agent = new Agent({ keepAlive: true });
    this.#cleanup.defer("close the client's connections", () => agent.destroy());
    const read = async (path: string) =>
      new Promise<void>((resolve, reject) => {
        const sent = request(url + path, { agent, headers: { "x-api-key": key } }, (answer) => {
          answer.resume();
          answer.once("error", reject);
          answer.once("end", () => (answer.statusCode === 200 ? resolve() : reject(new Error(`${path} answered ${answer.statusCode}`))));
        });
        sent.once("error", reject);
        sent.end();
      });
    return {
      get: async (index) => read(`/v1/sandboxes/${this.ids[index % this.ids.length]}`),
      list: async () => read("/v1/sandboxes?limit=100"),
    };
  }

  /** One round of the reconciler of each host. */
  async reconcile(): Promise<void> {
    await Promise.all(
      this.#links.map(async (host) =>
        new Reconciler({
          db: this.database.db,
          host,
          isExclusive: this.database.isExclusive,
          onEnded: () => undefined,
          log: silentLogger,
        }).reconcile(),
      ),
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup.run();
  }
}

async function memoryLocation(cleanup: Cleanup): Promise<DatabaseLocation> {
  const engine = await newEngine();
  cleanup.defer("end the embedded database", async () => engine.close());
  return { kind: "memory", engine };
}

async function serverLocation(cleanup: Cleanup) {
  const postgres = await startPostgres();
  cleanup.defer("end PostgreSQL", async () => postgres[Symbol.asyncDispose]());
  const url = await postgres.createDatabase();
  return { kind: "server", url } as const;
}
