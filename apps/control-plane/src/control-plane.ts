import type { AddressInfo } from "node:net";
import { join } from "node:path";

import { noTemplateDefaults } from "@roost/contract";
import { Cleanup, poll, second, type Logger } from "@roost/kit";

import { countByState, findSandbox, listOfHost } from "./db/sandboxes.ts";
import { openDatabase, type Database, type DatabaseLocation } from "./db/database.ts";
import { listTemplates } from "./db/hosts.ts";
import { listTokenHolders } from "./db/token-holders.ts";
import { Events } from "./events/events.ts";
import { followRunningCommands, ResumedCommands } from "./guest/followers.ts";
import { Guests } from "./guest/guests.ts";
import { HostLink, type HostDependency } from "./hosts/host-link.ts";
import { Hosts } from "./hosts/hosts.ts";
import { ControlPlaneMetrics } from "./http/metrics.ts";
import { buildServer, type HttpDeadlines } from "./http/server.ts";
import type { Services } from "./http/services.ts";
import { Upgrades } from "./http/web-socket/upgrades.ts";
import { asksForHttp2, serveWithoutUpgrade } from "./http/without-upgrade.ts";
import type { ControlPlaneOptions } from "./options.ts";
import { Proxy } from "./proxy/proxy.ts";
import { present } from "./sandboxes/present.ts";
import { Reconciler } from "./sandboxes/reconciler.ts";
import { runRetention } from "./sandboxes/retention.ts";
import { Sandboxes } from "./sandboxes/sandboxes.ts";
import { Snapshots } from "./snapshots/snapshots.ts";
import { ApiKeys } from "./teams/api-keys.ts";
import { BuildRunner } from "./templates/run/build-runner.ts";
import { startAndAwait } from "./templates/run/start-command.ts";
import { createTemplateServices, type TemplateServices } from "./templates/template-services.ts";

/** Connections that may wait to be accepted: a program that opens 1,000 streams at once is not made to wait a second for its next try */
const listenBacklog = 2_048;

export interface ControlPlaneDependencies {
  readonly hosts: readonly HostDependency[];
  readonly log: Logger;
  /** An open database, which the caller closes; without one it is opened as the options say. */
  readonly database?: Database;
  readonly deadlines?: HttpDeadlines;
}

export interface ControlPlane {
  readonly apiKeys: ApiKeys;
  /** Answers requests from now on; returns where. */
  listen(): Promise<{ readonly url: string; readonly port: number }>;
  /** Takes no new work, finishes what runs within `drainTimeoutSec`, closes sockets with 1001. */
  drain(): Promise<void>;
  /** Drains, then lets go of everything. Sandboxes stay as they are. */
  close(): Promise<void>;
}

/** Opens the database, follows the hosts, and gets the API ready. Nothing listens before `listen`. */
export async function createControlPlane(options: ControlPlaneOptions, deps: ControlPlaneDependencies): Promise<ControlPlane> {
  const owned = new Cleanup();
  try {
    return await build(options, deps, owned);
  } catch (error) {
    await owned.run();
    throw error;
  }
}

async function build(options: ControlPlaneOptions, deps: ControlPlaneDependencies, owned: Cleanup): Promise<ControlPlane> {
  const log = deps.log.child({ service: "control-plane" });
  const database = deps.database ?? (await openDatabase(databaseLocation(options), log));
  if (deps.database === undefined) owned.defer("close the database", () => database.close());

  const hosts = new Hosts(deps.hosts.map((host) => new HostLink(host, log)));
  const guests = new Guests(hosts);
  owned.defer("close guest connections", () => guests.close());
  const resumedCommands = new ResumedCommands(guests, log);
  owned.defer("forget resumed commands", () => resumedCommands.close());
  const onEnded = (sandboxId: string) => {
    resumedCommands.forget(sandboxId);
    guests.drop(sandboxId);
    proxy.drop(sandboxId);
  };
  const events = new Events(database.db, log);
  const templateServices = createTemplateServices({ db: database.db, hosts, ...options, pokeBuilds: () => buildRunner.poke(), log });
  const { templates, builds, files: buildFiles } = templateServices;
  owned.defer("forget credentials of builds", async () => builds.close());
  const sandboxes = new Sandboxes({
    database,
    hosts,
    log,
    onEnded,
    onChanged: (sandboxId) => proxy.recordChanged(sandboxId),
    onResumed: (row) => resumedCommands.resumed(row),
    onEvent: (event) => events.record(event),
    resolveTemplate: (name) => templates.resolve(name),
    startCommand: (row, defaults, signal) => startAndAwait(guests.of(row), defaults, { signal, log: log.child({ sandboxId: row.id }) }),
  });
  const buildRunner = new BuildRunner({
    ...templateServices,
    db: database.db,
    isExclusive: database.isExclusive,
    hosts,
    sandboxes,
    guests,
    atOnceMax: options.buildsAtOnce,
    timeoutMs: options.buildTimeoutSec * second,
    onRemoval: () => templateServices.upkeep.poke(),
    log,
  });
  const snapshots = new Snapshots({ records: sandboxes.records, hosts, log, hasNameOfBuilt: (name) => templates.hasNameOf(name) });
  const apiKeys = new ApiKeys(database.db, log);
  const metrics = new ControlPlaneMetrics(
    () => countByState(database.db),
    () => hosts.links.map((link) => ({ id: link.id, isWatched: link.isWatching })),
  );

  const proxy = new Proxy({
    find: async (id) => {
      const row = await findSandbox(database.db, id);
      return row?.for_build_id === null ? row : undefined;
    },
    present: (row) => present(row, sandboxes.records.now()),
    listTokenHolders: (limit) => listTokenHolders(database.db, limit),
    wake: (id) => sandboxes.lifecycle.usable(id),
    changed: (id, timeoutMs) => sandboxes.records.changed(id, timeoutMs),
    tunnelsOf: (hostId) => hosts.get(hostId).tunnels,
    metrics,
    log,
  });
  owned.defer("cut requests to guests", () => proxy.close());

  const loops = startLoops(options, { database, hosts, sandboxes, events, guests, templateServices, buildRunner, onEnded, log });
  owned.defer("end the loops", loops.end);

  let isDraining = false;
  const services: Services = {
    sandboxes,
    snapshots,
    templates,
    builds,
    buildFiles,
    events,
    guests,
    hosts,
    apiKeys,
    metrics,
    ping: () => database.ping(),
    listHostTemplates: async (ageMs) => {
      const described = await hosts.describe(ageMs);
      return described.length === 0
        ? (await listTemplates(database.db)).map((row) => ({ ...row, defaults: noTemplateDefaults, time_created: new Date(0) }))
        : uniqueByName(described.flatMap(({ description }) => description.templates));
    },
    domain: options.domain ?? null,
    log,
    isDraining: () => isDraining,
  };
  const upgrades = new Upgrades(services, options.allowedOrigins);
  const app = await buildServer(services, deps.deadlines, proxy);
  app.server.on("upgrade", (request, stream, head) => {
    if (asksForHttp2(request)) serveWithoutUpgrade(app.server, request, stream, head);
    else (proxy.claims(request) ? proxy : upgrades).upgrade(request, stream, head);
  });
  let inFlight = 0;
  app.server.on("request", (_request, response) => {
    inFlight += 1;
    response.once("close", () => (inFlight -= 1));
  });
  owned.defer("close the HTTP server", async () => {
    upgrades.close();
    app.server.closeAllConnections();
    await app.close();
  });

  let draining: Promise<void> | undefined;
  const drain = async () => {
    isDraining = true;
    sandboxes.drain();
    app.server.close();
    app.server.closeIdleConnections();
    await Promise.all([upgrades.drain(), proxy.drain()]);
    const done = () => (inFlight === 0 ? true : undefined);
    await poll({ what: "the end of requests in flight", timeoutMs: options.drainTimeoutSec * second }, done).catch((error: unknown) =>
      log.warn({ err: error, inFlight }, "cutting off requests"),
    );
  };
  return {
    apiKeys,
    listen: async () => {
      await app.listen({ host: options.address, port: options.port, backlog: listenBacklog });
      const { port } = app.server.address() as AddressInfo;
      const host = options.address.includes(":") ? `[${options.address}]` : options.address;
      log.info({ address: options.address, port }, "the API listens");
      return { url: `http://${host}:${port}`, port };
    },
    drain: () => (draining ??= drain()),
    close: async () => {
      await (draining ??= drain());
      await owned.run();
    },
  };
}

/** Where the options say that the records are. */
export function databaseLocation(options: ControlPlaneOptions): DatabaseLocation {
  return options.databaseUrl === undefined
    ? ({ kind: "folder", path: join(options.dir, "db"), cacheFolder: options.cacheDir } as const)
    : ({ kind: "server", url: options.databaseUrl } as const);
}

function uniqueByName<Item extends { readonly name: string }>(items: readonly Item[]): Item[] {
  return [...new Map(items.map((item) => [item.name, item])).values()].sort((a, b) => (a.name < b.name ? -1 : 1));
}

interface LoopParts {
  readonly database: Database;
  readonly hosts: Hosts;
  readonly sandboxes: Sandboxes;
  readonly events: Events;
  readonly guests: Guests;
  readonly templateServices: TemplateServices;
  readonly buildRunner: BuildRunner;
  readonly onEnded: (sandboxId: string) => void;
  readonly log: Logger;
}

/** Per host one watch and one reconciler; and the forgetting of old records. */
function startLoops(
  options: ControlPlaneOptions,
  { database, hosts, sandboxes, events, guests, templateServices, buildRunner, onEnded, log }: LoopParts,
): { end(): Promise<void> } {
  const abort = new AbortController();
  const running: Promise<void>[] = [
    runRetention(database.db, options.stoppedRetentionSec, log, abort.signal),
    sandboxes.expiry.run(abort.signal),
    templateServices.upkeep.run(abort.signal),
    buildRunner.run(abort.signal),
  ];
  for (const host of hosts.links) {
    const reconciler = new Reconciler({
      db: database.db,
      host,
      isCreating: (id) => sandboxes.isCreating(id),
      isExclusive: database.isExclusive,
      onEnded,
      log,
    });
    let isFirstSync = true;
    running.push(reconciler.run(abort.signal));
    running.push(
      host.run(abort.signal, {
        observed: (sandbox) => sandboxes.observe(sandbox),
        removed: (id) => sandboxes.observeRemoved(id),
        happened: (event) => events.record(event),
        synced: async () => {
          reconciler.poke();
          if (!isFirstSync) return;
          isFirstSync = false;
          void followRunningCommands(await listOfHost(database.db, host.id), guests, log);
        },
      }),
    );
  }
  return {
    end: async () => {
      abort.abort();
      await Promise.all(running);
    },
  };
}
