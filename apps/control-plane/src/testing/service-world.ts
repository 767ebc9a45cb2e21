import { createSandboxBodySchema, networkPolicySchema, type CreateSandboxInput } from "@roost/contract";
import { poll, silentLogger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import type { NewEvent } from "../db/events.ts";
import type { SandboxRow } from "../db/sandboxes.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import type { CreateOptions } from "../sandboxes/creates.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { BuiltTemplates } from "../templates/built-templates.ts";
import { TemplateLookup } from "../templates/template-lookup.ts";
import { FakeHost } from "./fake-host.ts";
import { firstTeam, own } from "./first-team.ts";

/** The sandbox services over a database, with a fake host that is being watched; no HTTP. */
export class ServiceWorld implements AsyncDisposable {
  readonly host = new FakeHost("host-1", () => 1);
  readonly link = new HostLink(this.host, silentLogger);
  readonly hosts = new Hosts([this.link]);
  readonly ended: string[] = [];
  readonly resumed: string[] = [];
  readonly told: NewEvent[] = [];
  readonly sandboxes: Sandboxes;
  readonly #abort = new AbortController();
  #watching: Promise<void> = Promise.resolve();

  private constructor(database: Database, now: () => Date) {
    this.sandboxes = this.#services(database, now);
  }

  /** Another control plane on the same database and host, which is not told what the host does. */
  another(database: Database, now: () => Date): Sandboxes {
    return this.#services(database, now);
  }

  #services(database: Database, now: () => Date): Sandboxes {
    const { hosts } = this;
    const templates = new BuiltTemplates({
      db: database.db,
      hosts,
      log: silentLogger,
      onRemoval: () => undefined,
      onCancel: () => undefined,
    });
    const lookup = new TemplateLookup({ db: database.db, hosts, templates });
    return new Sandboxes({
      database,
      hosts: this.hosts,
      log: silentLogger,
      onEnded: (id) => this.ended.push(id),
      onResumed: (row) => this.resumed.push(row.id),
      onEvent: async (event) => void this.told.push(event),
      resolveTemplate: (teamId, name) => lookup.resolve(teamId, name),
      now,
    });
  }

  /** What it says it has heard last */
  lastEventId: string | undefined;

  /** On an emptied database. */
  static async start(database: Database, now: () => Date = () => new Date()): Promise<ServiceWorld> {
    for (const table of ["sandbox", "snapshot", "built_template", "template_removal"] as const)
      await database.db.deleteFrom(table).execute();
    const world = new ServiceWorld(database, now);
    world.#watching = world.link.run(world.#abort.signal, {
      observed: (sandbox) => world.sandboxes.observe(sandbox),
      removed: (id) => world.sandboxes.observeRemoved(id, world.host.id),
      lastEventId: async () => world.lastEventId,
      happened: async (event) => void world.told.push(event),
      synced: async () => undefined,
    });
    await poll({ what: "the watch", timeoutMs: 30_000, intervalMs: 2 }, () => (world.link.isWatching ? true : undefined));
    return world;
  }

  async create(input: CreateSandboxInput = {}, options?: CreateOptions): Promise<SandboxRow> {
    return this.sandboxes.create(firstTeam, createSandboxBodySchema.parse(input), new AbortController().signal, options);
  }

  /** A sandbox whose time is up `sec` after it starts; deleted then, unless `options` say otherwise. */
  async createExpiring(sec: number, options: Partial<CreateOptions> = {}, input: CreateSandboxInput = {}): Promise<SandboxRow> {
    const network = networkPolicySchema.parse({});
    const all = { expirySec: sec, expiryAction: "delete", expiryMemory: true, isSecure: true, network, ...options } as const;
    return this.create({ ...input, timeout_sec: 0 }, all);
  }

  async isState(id: string, state: string): Promise<void> {
    await poll({ what: `state ${state}`, timeoutMs: 30_000, intervalMs: 2 }, async () =>
      (await this.sandboxes.get(own(id))).state === state ? true : undefined,
    );
  }

  /** Holds calls of an RPC on the host until the returned function is called. */
  hold(rpc: Parameters<FakeHost["images"]["gates"]["set"]>[0]): () => void {
    let release = () => {};
    this.host.images.gates.set(rpc, new Promise((resolve) => (release = resolve)));
    return () => {
      this.host.images.gates.delete(rpc);
      release();
    };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#abort.abort();
    await this.#watching;
  }
}
