import { randomUUID } from "node:crypto";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Readable } from "node:stream";

import { Code, ConnectError } from "@connectrpc/connect";
import { buildEnded, recipeSchema, type RecipeInput, type RegistryCredentials } from "@roost/contract";
import { poll, silentLogger } from "@roost/kit";

import type { Database } from "../db/database.ts";
import { Guests } from "../guest/guests.ts";
import { HostLink } from "../hosts/host-link.ts";
import { Hosts } from "../hosts/hosts.ts";
import { Reconciler } from "../sandboxes/reconciler.ts";
import { Sandboxes } from "../sandboxes/sandboxes.ts";
import { findBuild, type BuildRow } from "../templates/build-store.ts";
import { BuildRunner } from "../templates/run/build-runner.ts";
import { createTemplateServices, type TemplateServices } from "../templates/template-services.ts";
import { FakeGuest } from "./fake-guest.ts";
import { FakeHost } from "./fake-host.ts";
import { firstTeam, own } from "./first-team.ts";

/** What a guest was asked to run, as a build's user or a script of ours. */
export interface Ran {
  /** A command line of the recipe; undefined: a script */
  readonly line: string | undefined;
  readonly script: string;
  readonly args: readonly string[];
  readonly user: string | undefined;
  readonly cwd: string | undefined;
  readonly envs: Readonly<Record<string, string>>;
}

const accountLine: Readonly<Record<string, string>> = {
  root: "root:0:0:/root",
  user: "user:1000:1000:/home/user",
  "1000": "user:1000:1000:/home/user",
};

/** A control plane's builds over a database, with a fake host; its guests' command lines run on this machine, in an empty folder. */
export class BuildWorld implements AsyncDisposable {
  readonly host: FakeHost;
  readonly guest: FakeGuest;
  readonly database: Database;
  readonly ran: Ran[] = [];
  readonly folder: string;
  readonly #controlPlanes: ControlPlane[] = [];

  private constructor(database: Database, host: FakeHost, guest: FakeGuest, folder: string) {
    this.database = database;
    this.host = host;
    this.guest = guest;
    this.folder = folder;
    guest.substitute = (asked, user) => {
      const [, , script = "", , ...args] = asked.args;
      const isLine = script.startsWith("[ -x /bin/bash ]");
      this.ran.push({ line: isLine ? args[0] : undefined, script, args, user, cwd: asked.cwd, envs: asked.envs });
      if (isLine && user !== undefined && accountLine[user] === undefined)
        throw new ConnectError(`invalid username: '${user}'`, Code.Unauthenticated);
      if (isLine) return { cmd: "/bin/sh", args: ["-c", args[0] ?? ""] };
      if (script.includes("look_up")) return { cmd: "/bin/echo", args: ["-n", accountLine[(args[0] ?? "").replace(/:.*/, "")] ?? ""] };
      return { cmd: "/bin/sh", args: ["-c", "cat >/dev/null"] };
    };
  }

  static async start(database: Database): Promise<BuildWorld> {
    for (const table of ["built_template", "sandbox", "snapshot", "template_removal"] as const)
      await database.db.deleteFrom(table).execute();
    const guest = new FakeGuest();
    const port = await guest.listen();
    const folder = await mkdtemp(join(tmpdir(), "roost-build-world-"));
    return new BuildWorld(database, new FakeHost("host-1", () => port), guest, folder);
  }

  /** A control plane, perhaps beside others on the same database and host. */
  controlPlane({ atOnceMax = 2, timeoutMs = 60_000, isExclusive = true } = {}): ControlPlane {
    const made = new ControlPlane(this, { atOnceMax, timeoutMs, isExclusive });
    this.#controlPlanes.push(made);
    return made;
  }

  /** Command lines of recipes that ran, in order. */
  get lines(): string[] {
    return this.ran.flatMap(({ line }) => (line === undefined ? [] : [line]));
  }

  get hostTemplates(): string[] {
    return [...this.host.images.templates.keys()];
  }

  /** Resolves when the fake host has no sandboxes, and the records no hidden ones. */
  async isEmpty(): Promise<void> {
    await poll({ what: "the end of all sandboxes", timeoutMs: 30_000, intervalMs: 5 }, async () => {
      const row = await this.database.db.selectFrom("sandbox").select("id").where("state", "<>", "stopped").executeTakeFirst();
      return row === undefined && this.host.sandboxes.size === 0 ? true : undefined;
    });
  }

  async logOf(id: string): Promise<string[]> {
    const rows = await this.database.db
      .selectFrom("build_log")
      .select(["step", "message"])
      .where("build_id", "=", id)
      .orderBy("number")
      .execute();
    return rows.map(({ step, message }) => `${step ?? "-"} ${message}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const each of this.#controlPlanes) await each.stop();
    await this.guest.close();
    await rm(this.folder, { recursive: true, force: true });
  }
}

/** The part of a control plane that builds. */
export class ControlPlane {
  readonly services: TemplateServices;
  readonly runner: BuildRunner;
  readonly sandboxes: Sandboxes;
  readonly #hosts: Hosts;
  readonly #database: Database;
  readonly #guests: Guests;
  readonly #abort = new AbortController();
  #isDead = false;
  #running: Promise<void> = Promise.resolve();

  constructor(world: BuildWorld, options: { readonly atOnceMax: number; readonly timeoutMs: number; readonly isExclusive: boolean }) {
    const alive = <Of extends object>(of: Of): Of =>
      new Proxy(of, {
        get: (target, name, receiver) => {
          if (this.#isDead) throw new Error("this control plane is dead");
          const value: unknown = Reflect.get(target, name, receiver === undefined ? undefined : target);
          return typeof value === "function" ? (value.bind(target) as unknown) : value;
        },
      });
    const { host } = world;
    this.#hosts = new Hosts([new HostLink({ id: host.id, transport: alive(host.transport), tunnels: alive(host.tunnels) }, silentLogger)]);
    this.#database = { ...world.database, db: alive(world.database.db) };
    const [hosts, database, db, log] = [this.#hosts, this.#database, this.#database.db, silentLogger];
    this.#guests = new Guests(hosts);
    this.services = createTemplateServices({ db, hosts, dir: world.folder, buildFilesMib: 16, pokeBuilds: () => this.runner.poke(), log });
    this.sandboxes = new Sandboxes({
      database,
      hosts,
      log,
      onEnded: (id) => this.#guests.drop(id),
      resolveTemplate: (teamId, name) => this.services.lookup.resolve(teamId, name),
    });
    this.runner = new BuildRunner({
      ...this.services,
      ...options,
      db,
      hosts,
      sandboxes: this.sandboxes,
      guests: this.#guests,
      onRemoval: () => this.services.upkeep.poke(),
      log,
    });
  }

  /** As a kill does: it reaches neither database nor host any more. What runs in guests runs on. */
  die(): void {
    this.#isDead = true;
  }

  start(): this {
    this.#running = Promise.all([this.runner.run(this.#abort.signal), this.services.upkeep.run(this.#abort.signal)]).then(() => undefined);
    return this;
  }

  async stop(): Promise<void> {
    this.#abort.abort();
    await this.#running;
    this.#guests.close();
    this.services.builds.close();
  }

  /** Makes host and records agree, as a control plane does every minute. */
  async reconcile(): Promise<void> {
    await this.sandboxes.recovery.round();
    for (const host of this.#hosts.all()) {
      await new Reconciler({
        db: this.#database.db,
        host,
        isExclusive: true,
        onEnded: () => undefined,
        log: silentLogger,
      }).reconcile();
    }
  }

  async request(
    input: RecipeInput,
    { name = `t${randomUUID().slice(0, 8)}`, credentials }: { name?: string; credentials?: RegistryCredentials } = {},
  ): Promise<string> {
    const { build } = await this.services.builds.request({ teamId: firstTeam, name, tags: [], vcpus: 1, memoryMib: 512 });
    await this.services.builds.start(own(build.id), recipeSchema.parse(input), credentials);
    return build.id;
  }

  /** The build when it has ended. */
  async ended(id: string): Promise<BuildRow> {
    return poll({ what: `the end of build ${id}`, timeoutMs: 30_000, intervalMs: 5 }, async () => {
      const row = await findBuild(this.#database.db, own(id));
      return row !== undefined && buildEnded.has(row.state) ? row : undefined;
    });
  }

  async build(input: RecipeInput, options?: Parameters<ControlPlane["request"]>[1]): Promise<BuildRow> {
    return this.ended(await this.request(input, options));
  }

  /** Uploads a build's files for its template. */
  async upload(templateId: string, hash: string, content: Buffer): Promise<void> {
    await this.services.files.put(templateId, hash, Readable.from([content]), content.length, new AbortController().signal);
  }
}
